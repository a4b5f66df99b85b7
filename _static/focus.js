// The theme takes the focus from a button that is pressed. Who presses it by keyboard keeps it,
// and gets it back when a side bar closes.
document.addEventListener("click", (event) => {
  const byKeyboard = event.detail === 0;
  if (byKeyboard) event.target.closest("button")?.focus();
});
document.addEventListener("DOMContentLoaded", () => {
  for (const which of ["primary", "secondary"]) {
    const bar = document.getElementById(`pst-${which}-sidebar-modal`);
    bar?.addEventListener("close", () => document.querySelector(`.${which}-toggle`).focus());
  }
});
