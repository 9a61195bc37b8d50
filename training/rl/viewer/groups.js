// The list of groups, a mark for each rollout, and the shares over training above it.

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
