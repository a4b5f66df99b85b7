// Above a page of the question bank: a field that shows only the questions with all its words.
// The page works without this file.
document.addEventListener("DOMContentLoaded", () => {
  const folds = [...document.querySelectorAll("details.question")];
  if (!folds.length) return;
  const texts = folds.map((fold) => fold.textContent.toLowerCase());
  const field = document.createElement("input");
  const line = document.createElement("p");
  field.type = "search";
  field.placeholder = "words of the question or its answer";
  field.setAttribute("aria-label", "Show only questions with these words");
  field.className = "bank-field";
  line.className = "quiz-count";
  line.setAttribute("aria-live", "polite");
  folds[0].parentNode.querySelector(".bank-chapter").before(field, line);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    folds.forEach((fold, i) => {
      fold.hidden = !words.every((word) => texts[i].includes(word));
      if (!fold.hidden) shown += 1;
    });
    line.textContent = words.length ? `${shown} of ${folds.length}` : "";
  });
  // A link to a question opens it.
  const open = () => {
    const fold = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (fold && fold.matches("details.question")) {
      fold.open = true;
      fold.scrollIntoView();
    }
  };
  window.addEventListener("hashchange", open);
  open();
});
