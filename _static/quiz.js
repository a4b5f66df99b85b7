// Counts, under each quiz, how many questions were right at the first try. A quiz of class "draw"
// shows ten of its questions, drawn at random, and keeps the scores in this browser.
// The quiz itself is made of <details> and works without this file.
document.addEventListener("DOMContentLoaded", () => {
  for (const quiz of document.querySelectorAll(".quiz")) {
    if (quiz.classList.contains("draw")) draw(quiz);
    else count(quiz, [...quiz.querySelectorAll(":scope > ol > li")], () => {});
  }
});

function count(quiz, questions, done) {
  const line = document.createElement("p");
  line.className = "quiz-count";
  line.setAttribute("aria-live", "polite");
  quiz.append(line);
  const first = new Map(); // question → was the first option opened the right one?
  for (const question of questions) {
    for (const option of question.querySelectorAll("details.option")) {
      option.ontoggle = () => {
        if (!option.open || first.has(question)) return;
        first.set(question, option.classList.contains("right"));
        const right = [...first.values()].filter(Boolean).length;
        line.textContent = `Right at the first try: ${right} of ${first.size}` +
          (first.size < questions.length ? " so far." : ".");
        if (first.size === questions.length) done(right);
      };
    }
  }
}

function draw(quiz) {
  const all = [...quiz.querySelectorAll(":scope > ol > li")];
  const list = quiz.querySelector(":scope > ol");
  const size = Math.min(10, all.length);
  const bar = document.createElement("p");
  const again = document.createElement("button");
  const past = document.createElement("span");
  again.type = "button";
  again.className = "quiz-again";
  again.textContent = `Draw ${size} others`;
  past.className = "quiz-past";
  bar.append(again, " ", past);
  quiz.prepend(bar);

  function scores() { // a browser may refuse to keep anything
    try { return JSON.parse(localStorage.getItem("quiz-scores")) || []; } catch { return []; }
  }
  function keep(right) {
    const kept = [...scores(), right].slice(-20);
    try { localStorage.setItem("quiz-scores", JSON.stringify(kept)); } catch { /* not kept */ }
    tell();
  }
  function tell() {
    const kept = scores();
    past.textContent = kept.length ? `Your last scores, of ${size}: ${kept.slice(-8).join(", ")}` : "";
  }
  function deal() {
    quiz.querySelector(":scope > .quiz-count")?.remove();
    for (const option of quiz.querySelectorAll("details.option")) {
      option.ontoggle = null;
      option.open = false;
    }
    const left = [...all];
    const drawn = [];
    while (drawn.length < size) {
      drawn.push(...left.splice(Math.floor(Math.random() * left.length), 1));
    }
    list.replaceChildren(...drawn);
    count(quiz, drawn, keep);
  }
  again.addEventListener("click", () => {
    deal();
    quiz.scrollIntoView({ block: "start" });
  });
  tell();
  deal();
}
