// Which rollouts are shown: the filters, and the address that remembers them.

const CHOICES = {
  zoom: [["", "all"], ["yes", "yes"], ["no", "no"]],
  right: [["", "all"], ["yes", "right"], ["no", "wrong"], ["none", "not scored"]],
  form: [["", "all"], ["yes", "kept"], ["no", "broken"]],
};
const FIELDS = ["source", "step", "min", "max", "q"];
const NAMES = [...Object.keys(CHOICES), ...FIELDS];
const form = $("filters");
let state = {};
let chosen = null;
let matching = [];
let stageView = 0;

function searched(rollout) {
  if (rollout.text === undefined) {
    const said = rollout.messages.flatMap((message) => [
      ...message.content.map((block) => block.text ?? ""),
      ...(message.tool_calls ?? []).map((call) => `${call.name} ${JSON.stringify(call.args)}`),
    ]);
    const all = [rollout.question, rollout.answers.join(" "), rollout.answer ?? "", rollout.id, rollout.error ?? "", ...said];
    rollout.text = all.join("\n").toLowerCase();
  }
  return rollout.text;
}

function matcher(state) {
  const steps = /^\s*(\d+)\s*(?:[-–:]\s*(\d+)\s*)?$/.exec(state.step ?? "");
  const [first, last] = steps ? [Number(steps[1]), Number(steps[2] ?? steps[1])] : [-Infinity, Infinity];
  const low = state.min ? Number(state.min) : -Infinity;
  const high = state.max ? Number(state.max) : Infinity;
  const words = (state.q ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  return (rollout) => {
    if (rollout.step < first || rollout.step > last) return false;
    if (state.source && rollout.source !== state.source) return false;
    if (state.zoom && (rollout.error !== null || (state.zoom === "yes") !== rollout.zooms > 0)) return false;
    if (state.right && { yes: "right", no: "wrong", none: "none" }[state.right] !== rollout.verdict) return false;
    if (state.form && (rollout.error !== null || (state.form === "yes") !== rollout.well_formed)) return false;
    if (state.min || state.max) {
      const total = rollout.reward?.total;
      if (total === undefined || total < low - 1e-9 || total > high + 1e-9) return false;
    }
    return words.every((word) => searched(rollout).includes(word));
  };
}

function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  state = Object.fromEntries(NAMES.map((name) => [name, found.get(name) ?? ""]).filter(([, value]) => value));
  chosen = byKey.get(found.get("at")) ?? null;
  stageView = Number(found.get("view") ?? 0) || 0;
  if (found.get("theme")) document.documentElement.dataset.theme = found.get("theme");
}

function writeAddress() {
  const kept = new URLSearchParams(state);
  if (chosen) kept.set("at", chosen.key);
  if (stageView) kept.set("view", stageView);
  if (document.documentElement.dataset.theme) kept.set("theme", document.documentElement.dataset.theme);
  history.replaceState(null, "", `#${kept}`);
}

function set(name, value) {
  if (value) state[name] = value;
  else delete state[name];
  refresh();
}

function buildFilters() {
  for (const [name, choices] of Object.entries(CHOICES)) {
    const field = form.querySelector(`[data-name="${name}"]`);
    for (const [value, label] of choices) {
      field.append(el("button", { type: "button", "data-value": value, onclick: () => set(name, value) }, label));
    }
  }
  const select = form.elements.source;
  select.append(el("option", { value: "" }, "all"), ...sources.map((name) => el("option", { value: name }, name)));
  for (const name of FIELDS) form.elements[name].addEventListener("input", (event) => set(name, event.target.value));
  form.addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", clear);
}

function showFilters() {
  for (const name of Object.keys(CHOICES)) {
    for (const button of form.querySelectorAll(`[data-name="${name}"] button`)) {
      button.setAttribute("aria-pressed", String(button.dataset.value === (state[name] ?? "")));
    }
  }
  for (const name of FIELDS) {
    if (form.elements[name].value !== (state[name] ?? "")) form.elements[name].value = state[name] ?? "";
  }
}

function clear() {
  state = {};
  refresh();
}

function next(name) {
  const values = CHOICES[name].map(([value]) => value);
  set(name, values[(values.indexOf(state[name] ?? "") + 1) % values.length]);
}
