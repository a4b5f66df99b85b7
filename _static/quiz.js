// Counts, under each quiz, how many questions were right at the first try.
// The quiz itself is made of <details> and works without this file.
document.addEventListener("DOMContentLoaded", () => {
  for (const quiz of document.querySelectorAll(".quiz")) {
    const questions = quiz.querySelectorAll(":scope > ol > li");
    const count = document.createElement("p");
    count.className = "quiz-count";
    count.setAttribute("aria-live", "polite");
    quiz.append(count);
    const first = new Map(); // question → was the first option opened the right one?
    for (const question of questions) {
      for (const option of question.querySelectorAll("details.option")) {
        option.addEventListener("toggle", () => {
          if (option.open && !first.has(question)) {
            first.set(question, option.classList.contains("right"));
            const right = [...first.values()].filter(Boolean).length;
            count.textContent = `Right at the first try: ${right} of ${first.size}` +
              (first.size < questions.length ? " so far." : ".");
          }
        });
      }
    }
  }
});
