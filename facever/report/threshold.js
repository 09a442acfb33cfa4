"use strict";
{
  const panel = document.getElementById("threshold");
  const points = JSON.parse(panel.dataset.points);
  const slider = panel.querySelector("input");
  const marks = [...document.querySelectorAll("[data-places]")].map((mark) => [
    mark,
    mark.dataset.places.split(";"),
  ]);
  const rate = (errors, pairs) =>
    `${((100 * errors) / pairs).toFixed(2)} % (${errors.toLocaleString("en")} of ` +
    `${pairs.toLocaleString("en")})`;
  const show = () => {
    const at = Number(slider.value);
    const fmr = rate(points.falseMatches[at], points.nonMated);
    const fnmr = rate(points.misses[at], points.mated);
    panel.querySelector("#at").value = points.threshold[at];
    panel.querySelector("#fmr").value = fmr;
    panel.querySelector("#fnmr").value = fnmr;
    slider.setAttribute("aria-valuetext", `${points.threshold[at]}: FMR ${fmr}, FNMR ${fnmr}`);
    for (const [mark, places] of marks) mark.setAttribute("transform", `translate(${places[at]})`);
  };
  slider.addEventListener("input", show);
  for (const button of panel.querySelectorAll("button"))
    button.addEventListener("click", () => {
      slider.value = button.value;
      show();
    });
  panel.hidden = false;
  show();
}
