// The rollouts and their groups, as the page holds them, and their pictures.

const rollouts = data.rollouts;
// The terms of a reward with their signs, in order.
const terms = Object.entries(data.signs);
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
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−"));
