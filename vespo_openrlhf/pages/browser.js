"use strict";
// Text of a model goes in by textContent alone: it is never parsed as HTML.
for (const browser of document.querySelectorAll(".browser")) {
  const { runs, problems, samples } = JSON.parse(browser.querySelector("script").textContent);
  const form = browser.querySelector("form");
  const list = browser.querySelector("ol");
  const count = browser.querySelector(".count");
  const more = browser.querySelector("button");
  const PAGE = 20;
  let found = [];
  let shown = 0;

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function plain(parts) {
    return parts.map((part) => (typeof part === "string" ? part : part.mark || "")).join("");
  }

  for (const sample of samples) {
    const problem = problems[sample.problem];
    sample.text = [problem.name, problem.prompt, problem.gold,
      ...sample.before.map(([, parts]) => plain(parts)), plain(sample.parts)]
      .join("\n").toLowerCase();
  }

  function said(who, parts) {
    const text = element("pre", who);
    for (const part of parts) {
      if (typeof part === "string") text.append(part);
      else if (part.mark !== undefined) text.append(element("mark", "", part.mark));
      else text.append(element("span", "gap",
        `\n[… ${part.cut.toLocaleString("en")} characters left out …]\n`));
    }
    return text;
  }

  function body(sample) {
    const inside = element("div", "body");
    const problem = problems[sample.problem];
    for (const [title, text] of [["prompt", problem.prompt], ["reference answer", problem.gold]]) {
      if (!text) continue;
      inside.append(element("h4", "", title), element("pre", "", text));
    }
    for (const [who, parts] of sample.before) {
      inside.append(element("h4", "", who), said(who, parts));
    }
    inside.append(element("h4", "", sample.before.length ? "model" : "response"),
      said("response", sample.parts));
    return inside;
  }

  function item(sample) {
    const problem = problems[sample.problem];
    const details = element("details", "sample");
    const summary = element("summary");
    summary.append(
      element("span", "verdict " + (sample.right ? "right" : "wrong"), sample.reason),
      element("span", "", [problem.group, problem.name].filter(Boolean).join(" · ")),
      element("span", "quiet", sample.note));
    if (runs.length > 1) summary.append(element("span", "quiet", runs[sample.run]));
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.open && !details.querySelector(".body")) details.append(body(sample));
    });
    const entry = element("li");
    entry.append(details);
    return entry;
  }

  function showMore() {
    list.append(...found.slice(shown, shown + PAGE).map(item));
    shown = Math.min(found.length, shown + PAGE);
    more.hidden = shown >= found.length;
  }

  function matches(sample, wanted) {
    if (wanted.run && String(sample.run) !== wanted.run) return false;
    if (wanted.group && problems[sample.problem].group !== wanted.group) return false;
    if (wanted.verdict === "right" && !sample.right) return false;
    if (wanted.verdict === "wrong" && sample.right) return false;
    if (wanted.verdict && !["right", "wrong"].includes(wanted.verdict)
      && sample.reason !== wanted.verdict) return false;
    const text = wanted.text.trim().toLowerCase();
    if (text.startsWith("id:")) {
      return problems[sample.problem].name.toLowerCase() === text.slice(3).trim();
    }
    return sample.text.includes(text);
  }

  function filter() {
    const wanted = Object.fromEntries(new FormData(form));
    found = samples.filter((sample) => matches(sample, wanted));
    shown = 0;
    list.replaceChildren();
    const number = (n) => n.toLocaleString("en");
    count.textContent = found.length === samples.length
      ? `${number(samples.length)} samples`
      : `${number(found.length)} of ${number(samples.length)} samples`;
    showMore();
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", showMore);
  // A click on a problem in a picture of them (data-problem) shows its samples.
  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-problem]");
    if (!target) return;
    form.reset();
    form.elements.text.value = `id:${target.dataset.problem}`;
    if (form.elements.group) form.elements.group.value = target.dataset.group;
    filter();
    browser.scrollIntoView();
  });
  filter();
}
