// One rollout: its views with boxes where it zoomed, its conversation, its reward, its group.

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
    terms.map(([name, sign], place) => {
      const value = reward[name];
      const title = sign < 0 ? `− ${name}` : place ? `+ ${name}` : name;
      const kind = sign < 0 ? (value > 0 ? "bad" : "") : value > 0 ? "good" : "bad";
      return part(title, number(value, sign < 0 ? 2 : 1), kind);
    }),
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
  const head = ["", "zooms", ["answer", "said"], ...terms.map(([name]) => name), "reward", "advantage", ""];
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
      ...terms.map(([name, sign]) => el("td", {}, number(other.reward?.[name], sign < 0 ? 2 : 1))),
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
