"use strict";
// Reads the log out of the page and shows it. All of it is data: text goes in by textContent, nothing becomes markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const COLOURS = ["var(--zoom)", "#cc79a7", "#e69f00", "#56b4e9", "var(--faint)"];

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// ------------------------------------------------------------------------------------------------ the log

const rollouts = data.rollouts;
const groups = [];
{
  const known = new Map();
  rollouts.forEach((rollout, place) => {
    const key = `${rollout.step}/${rollout.group}`;
    if (!known.has(key)) {
      known.set(key, { key, rollouts: [] });
      groups.push(known.get(key));
    }
    const group = known.get(key);
    rollout.key = `${key}/${group.rollouts.length}`;
    rollout.place = place;
    rollout.home = group;
    rollout.verdict = rollout.reward === null ? "none" : rollout.reward.accuracy > 0 ? "right" : "wrong";
    group.rollouts.push(rollout);
  });
}
const byKey = new Map(rollouts.map((rollout) => [rollout.key, rollout]));
const sources = [...new Set(rollouts.map((rollout) => rollout.source))].sort();
// Bars are full where nine in ten advantages end; an outlier would flatten all others.
const sizes = rollouts.map((rollout) => Math.abs(rollout.advantage ?? 0)).filter(Boolean).sort((a, b) => a - b);
const reach = sizes[Math.floor(0.9 * (sizes.length - 1))] || 1;
const length = (advantage) => Math.min(1, Math.abs(advantage) / reach);

const made = new Map();
function imageUrl(file) {
  // One object URL per picture, made when it is first seen.
  if (!file || !(file in data.images)) return null;
  if (!made.has(file)) {
    const { type, base64 } = data.images[file];
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    made.set(file, URL.createObjectURL(new Blob([bytes], { type })));
  }
  return made.get(file);
}

const imageOf = (view) => view.url.split("?")[0];
const signed = (value, digits = 2) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));

// ------------------------------------------------------------------------------------------------ filters

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

// ------------------------------------------------------------------------------------------------ groups

function bar(advantage) {
  // From the line below the mark, up or down by at most 11 px.
  if (!advantage) return null;
  const size = Math.max(1, 11 * length(advantage));
  return el("b", { style: { height: `${size}px`, top: `${advantage > 0 ? 29 - size : 30}px` } });
}

function label(rollout) {
  const verdict = { right: "right", wrong: "wrong", none: "not scored" }[rollout.verdict];
  const reward = rollout.reward ? `, reward ${number(rollout.reward.total)}, advantage ${number(rollout.advantage)}` : "";
  return `${rollout.zooms ? "zoomed" : "direct"}, ${verdict}${reward}: ${rollout.answer ?? rollout.error ?? "no answer"}`;
}

function buildGroups() {
  const list = $("groups");
  list.before(
    el("p", { class: "legend" },
      el("span", {}, el("i", { class: "r" }), "right"),
      el("span", {}, el("i", { class: "w" }), "wrong"),
      el("span", {}, el("i", { class: "z" }), "zoomed"),
      el("span", {}, "bar: advantage")),
  );
  for (const group of groups) {
    const first = group.rollouts[0];
    const cells = group.rollouts.map((rollout) => {
      rollout.cell = el(
        "button",
        {
          type: "button",
          class: `cell ${rollout.verdict}${rollout.zooms ? " zoomed" : ""}`,
          title: label(rollout),
          "aria-label": label(rollout),
          "data-key": rollout.key,
          onclick: () => choose(rollout),
        },
        el("i"),
        bar(rollout.advantage),
      );
      return rollout.cell;
    });
    group.node = el(
      "div",
      { class: "group" },
      el("div", { class: "asked", title: first.question }, first.question),
      el("div", { class: "where" },
        el("span", {}, `step ${first.step} · ${first.source}`), el("span", {}, `gold: ${first.answers[0]}`)),
      el("div", { class: "cells" }, cells),
    );
    list.append(group.node);
  }
}

function timeline() {
  const steps = [...new Set(rollouts.map((rollout) => rollout.step))].sort((a, b) => a - b);
  if (steps.length < 2) return;
  const lines = [];
  const mean = (found, of) => (found.length ? found.filter(of).length / found.length : null);
  const bySteps = new Map(steps.map((step) => [step, rollouts.filter((r) => r.step === step && r.error === null)]));
  sources.slice(0, 4).forEach((source, place) => {
    lines.push([`zooms, ${source}`, COLOURS[place], "", (s) => mean(bySteps.get(s).filter((r) => r.source === source), (r) => r.zooms > 0)]);
  });
  lines.push(["right", COLOURS[4], "4 3", (s) => mean(bySteps.get(s).filter((r) => r.reward), (r) => r.verdict === "right")]);
  const [first, last] = [steps[0], steps.at(-1)];
  const x = (step) => (100 * (step - first)) / (last - first);
  const picture = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": "shares over training" });
  for (const y of [0, 50, 100]) picture.append(svg("line", { class: "grid", x1: 0, x2: 100, y1: y, y2: y }));
  const now = svg("rect", { class: "now", y: 0, height: 100, x: 0, width: 0 });
  picture.append(now);
  for (const [, colour, dash, value] of lines) {
    const points = steps.map((step) => [x(step), value(step)]).filter(([, y]) => y !== null);
    const line = svg("polyline", { class: "line", points: points.map(([px, y]) => `${px.toFixed(2)},${(100 - 100 * y).toFixed(2)}`).join(" ") });
    line.style.stroke = colour;
    line.style.strokeDasharray = dash;
    picture.append(line);
  }
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const wanted = first + ((event.clientX - box.left) / box.width) * (last - first);
    const nearest = steps.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
    set("step", state.step === String(nearest) ? "" : String(nearest));
  });
  $("timeline").append(
    picture,
    el("figcaption", {},
      ...lines.map(([name, colour, dash]) => {
        const key = el("i", { class: dash ? "dashed" : null });
        key.style.borderTopColor = colour;
        return el("span", {}, key, name);
      }),
      el("span", {}, `0–100 %, steps ${first}–${last}`)),
  );
  $("timeline").hidden = false;
  timeline.show = () => {
    const found = /^\s*(\d+)\s*(?:[-–:]\s*(\d+)\s*)?$/.exec(state.step ?? "");
    if (!found) return now.setAttribute("width", 0);
    const [a, b] = [Number(found[1]), Number(found[2] ?? found[1])].map((step) => Math.min(100, Math.max(0, x(step))));
    now.setAttribute("x", Math.max(0, a - 0.8));
    now.setAttribute("width", Math.max(1.6, b - a));
  };
}
timeline.show = () => {};

// ------------------------------------------------------------------------------------------------ one rollout

function choose(rollout, { scroll = false } = {}) {
  if (chosen) chosen.cell.classList.remove("chosen");
  if (chosen) chosen.home.node.classList.remove("chosen");
  if (rollout !== chosen) stageView = 0;
  chosen = rollout;
  if (rollout) {
    rollout.cell.classList.add("chosen");
    rollout.home.node.classList.add("chosen");
    if (scroll) rollout.home.node.scrollIntoView({ block: "nearest" });
  }
  detail();
  writeAddress();
}

function look(place) {
  if (!chosen || !chosen.views[place]) return;
  stageView = place;
  stage();
  writeAddress();
}

function regionText(view) {
  return view.region ? `region ${view.region.join(", ")}` : "whole image";
}

function viewName(rollout, place) {
  const view = rollout.views[place];
  const before = rollout.views.slice(0, place + 1).filter((other) => other.kind === view.kind).length;
  return view.kind === "low" ? "first view" : `${view.kind} ${before}`;
}

function stage() {
  const view = chosen.views[stageView];
  const frame = el("div", { class: "frame" });
  const url = imageUrl(view.file);
  if (url) frame.append(el("img", { src: url, alt: `${viewName(chosen, stageView)}, ${regionText(view)}` }));
  else frame.append(el("div", { class: "lost" }, "This view's picture is not in the log."));
  if (url && view.kind === "low" && !view.region) {
    chosen.views.forEach((other, place) => {
      if (other.kind === "low" || imageOf(other) !== imageOf(view)) return;
      const [x1, y1, x2, y2] = other.region ?? [0, 0, 1000, 1000];
      frame.append(
        el("div",
          {
            class: "box",
            "data-view": place,
            style: { left: `${x1 / 10}%`, top: `${y1 / 10}%`, width: `${(x2 - x1) / 10}%`, height: `${(y2 - y1) / 10}%` },
          },
          el("span", {}, viewName(chosen, place))),
      );
    });
  }
  // The frame is as wide as the picture, so that boxes in percent lie on it.
  const ratio = view.width / view.height;
  frame.style.width = `min(100%, calc(62vh * ${ratio.toFixed(4)}))`;
  $("stage").replaceChildren(frame);
  document.querySelectorAll(".thumb").forEach((thumb, place) => thumb.setAttribute("aria-pressed", String(place === stageView)));
}

function thumbs(rollout) {
  return rollout.views.map((view, place) => {
    const hot = (on) => () => document.querySelector(`.box[data-view="${place}"]`)?.classList.toggle("hot", on);
    const url = imageUrl(view.file);
    return el(
      "button",
      { type: "button", class: "thumb", onclick: () => look(place), onmouseenter: hot(true), onmouseleave: hot(false) },
      url ? el("img", { src: url, alt: "" }) : null,
      el("span", {}, `${viewName(rollout, place)} `, el("em", {}, regionText(view)), el("em", {}, `${view.width}×${view.height}, ${view.tokens} tokens`)),
    );
  });
}

function rewardParts(rollout) {
  const { reward, advantage } = rollout;
  if (!reward) return el("div", { class: "sum" }, el("span", { class: "part" }, rollout.error ? "run failed: not scored" : "not scored"));
  const part = (name, value, kind) => el("span", { class: `part ${kind}` }, el("em", {}, `${name} `), value);
  return el(
    "div",
    { class: "sum" },
    part("accuracy", number(reward.accuracy, 1), reward.accuracy > 0 ? "good" : "bad"),
    part("+ format", number(reward.format, 1), reward.format > 0 ? "good" : "bad"),
    part("− penalty", number(reward.penalty), reward.penalty > 0 ? "bad" : ""),
    part("= reward", number(reward.total), "total"),
    part("advantage", advantage === null ? "–" : signed(advantage), "total"),
  );
}

function replyText(text) {
  // The protocol's tags as they stand, what is inside them told apart by looks.
  const nodes = [];
  let inside = "";
  for (const piece of text.split(/(<\/?(?:think|answer|tool_call)>)/)) {
    const tag = /^<(\/?)(think|answer|tool_call)>$/.exec(piece);
    if (tag) {
      inside = tag[1] ? "" : tag[2];
      nodes.push(el("span", { class: "tag" }, piece));
    } else if (piece) {
      nodes.push(el("span", { class: { think: "think", answer: "final", tool_call: "call" }[inside] }, piece));
    }
  }
  return nodes;
}

function blocks(rollout, message) {
  return message.content.map((block) => {
    if (block.type === "text") return message.role === "ai" ? replyText(block.text) : document.createTextNode(block.text);
    if (block.type !== "image") return document.createTextNode(`[${block.type}]`);
    const place = rollout.views.findIndex((view) => view.url === block.url);
    if (place < 0) return document.createTextNode("[image]");
    const url = imageUrl(rollout.views[place].file);
    return el("button", { type: "button", class: "inline", onclick: () => look(place) },
      url ? el("img", { src: url, alt: "" }) : null, viewName(rollout, place));
  });
}

function conversation(rollout) {
  let turn = 0;
  return rollout.messages.map((message) => {
    const content = blocks(rollout, message).flat();
    if (message.role === "system") {
      return el("details", { class: "said-by system" }, el("summary", {}, "system prompt"), el("div", { class: "bubble" }, content));
    }
    let who = { human: "user", ai: "policy", tool: message.name ?? "tool" }[message.role] ?? message.role;
    if (message.role === "ai") {
      const record = rollout.turns[turn++];
      for (const call of message.tool_calls ?? []) content.push(el("span", { class: "call" }, `${call.name}(${JSON.stringify(call.args)})`));
      for (const call of message.invalid_tool_calls ?? []) content.push(el("span", { class: "call bad" }, `not a valid call: ${call.text ?? ""}`));
      if (record) {
        const sure = record.logprob === null ? "" : `, mean log-probability ${number(record.logprob)}`;
        who += ` · ${record.tokens} tokens${record.finish_reason === "length" ? ", cut off" : ""}${sure}`;
      }
    }
    if (message.status === "error") who += " · refused";
    return el("div", { class: `said-by ${message.role}${message.status === "error" ? " failed" : ""}` },
      el("div", { class: "who" }, who), el("div", { class: "bubble" }, content));
  });
}

function diverging(advantage) {
  const inner = el("b", { class: advantage >= 0 ? "up" : "down", style: { width: `${50 * length(advantage)}%` } });
  return el("span", { class: "diverge" }, inner);
}

function groupTable(rollout) {
  const shown = new Set(matching);
  const head = ["", "zooms", ["answer", "said"], "acc.", "fmt.", "pen.", "reward", "advantage", ""];
  const rows = rollout.home.rollouts.map((other, place) =>
    el(
      "tr",
      {
        class: `${other === rollout ? "chosen" : ""} ${shown.has(other) ? "" : "out"}`,
        title: label(other),
        onclick: () => choose(other),
      },
      el("td", {}, String(place + 1)),
      el("td", {}, other.error ? "–" : String(other.zooms)),
      el("td", { class: "said" }, el("span", { class: { right: "yes", wrong: "no", none: "" }[other.verdict] },
        `${{ right: "✓ ", wrong: "✗ ", none: "? " }[other.verdict]}`), other.answer ?? other.error ?? "no answer"),
      el("td", {}, number(other.reward?.accuracy, 1)),
      el("td", {}, number(other.reward?.format, 1)),
      el("td", {}, number(other.reward?.penalty)),
      el("td", {}, number(other.reward?.total)),
      el("td", {}, other.advantage === null ? "–" : signed(other.advantage)),
      el("td", { class: "bar-cell" }, other.advantage === null ? null : diverging(other.advantage)),
    ),
  );
  return el("table", {},
    el("thead", {}, el("tr", {}, head.map((name) => (Array.isArray(name) ? el("th", { class: name[1] }, name[0]) : el("th", {}, name))))),
    el("tbody", {}, rows));
}

function detail() {
  const pane = $("detail");
  if (!chosen) return pane.replaceChildren(el("p", { class: "facts" }, "Choose a rollout on the left, or press j."));
  const rollout = chosen;
  const usage = rollout.usage;
  const facts = [
    `visual tokens ${usage.visual_tokens} of ${usage.full_visual_tokens} at full resolution`,
    plural(usage.turns, "reply", "replies"),
    usage.mistakes ? plural(usage.mistakes, "refused call", "refused calls") : null,
    rollout.stop ? `ended by ${rollout.stop}` : null,
    `${number(rollout.seconds)} s`,
  ].filter(Boolean).join(" · ");
  pane.replaceChildren(
    el("div", { class: "headline" },
      el("h2", {}, rollout.question),
      ...rollout.answers.map((answer) => el("span", { class: "gold", title: "gold answer" }, answer)),
      el("span", { class: "where" }, `step ${rollout.step} · ${rollout.source} · ${rollout.id} · rollout ${rollout.key}`)),
    el("div", { class: "two" },
      el("div", { class: "seen" },
        rollout.views.length ? el("div", { class: "stage", id: "stage" }) : null,
        el("div", { class: "thumbs" }, thumbs(rollout))),
      el("div", { class: "talk" },
        rewardParts(rollout),
        el("p", { class: "facts" }, facts),
        rollout.error ? el("div", { class: "error" }, rollout.error) : null,
        conversation(rollout)),
      el("div", { class: "siblings" },
        el("h3", {}, `its group: ${rollout.home.rollouts.length} rollouts of this question`),
        groupTable(rollout))),
  );
  if (!rollout.views[stageView]) stageView = 0;
  if (rollout.views.length) stage();
  pane.scrollTop = 0;
}

// ------------------------------------------------------------------------------------------------ together

function refresh() {
  const matches = matcher(state);
  matching = rollouts.filter(matches);
  const shown = new Set(matching);
  for (const rollout of rollouts) rollout.cell.hidden = !shown.has(rollout);
  for (const group of groups) group.node.hidden = !group.rollouts.some((rollout) => shown.has(rollout));
  $("nothing").hidden = matching.length > 0;
  const text = matching.length === rollouts.length ? `${rollouts.length} rollouts` : `${matching.length} of ${rollouts.length} rollouts`;
  $("count").textContent = `${text} in ${groups.filter((group) => !group.node.hidden).length} groups`;
  document.documentElement.dataset.shown = matching.length;
  showFilters();
  timeline.show();
  const keep = stageView;
  const stays = chosen && shown.has(chosen);
  choose(stays ? chosen : (matching[0] ?? null));
  if (stays && keep) look(keep);
}

function move(by, { group = false } = {}) {
  if (!matching.length) return;
  const at = matching.indexOf(chosen);
  if (!group) return choose(matching[Math.min(matching.length - 1, Math.max(0, at + by))], { scroll: true });
  const shown = groups.filter((g) => !g.node.hidden);
  const wanted = shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(chosen?.home) + by))];
  choose(matching.find((rollout) => rollout.home === wanted), { scroll: true });
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  writeAddress();
}

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1),
  k: () => move(-1), ArrowUp: () => move(-1),
  J: () => move(1, { group: true }), ArrowRight: () => move(1, { group: true }),
  K: () => move(-1, { group: true }), ArrowLeft: () => move(-1, { group: true }),
  z: () => next("zoom"), r: () => next("right"), f: () => next("form"),
  t: theme, "?": () => $("keys").showModal(), "/": () => form.elements.q.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const typing = event.target.matches("input, select");
  if (event.key === "Escape") return typing ? event.target.blur() : clear();
  if (typing) return;
  if (/^[1-9]$/.test(event.key)) return look(Number(event.key) - 1);
  if (event.key in KEYS) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
window.addEventListener("hashchange", () => { readAddress(); refresh(); });
$("theme").addEventListener("click", theme);
$("help").addEventListener("click", () => $("keys").showModal());

$("note").textContent = data.note;
$("note").hidden = !data.note;
readAddress();
buildFilters();
buildGroups();
timeline();
refresh();
chosen?.home.node.scrollIntoView({ block: "nearest" });
document.documentElement.dataset.ready = "yes";
