"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  if (viewer) {
    const picture = document.getElementById("stage");
    const caption = viewer.querySelector(".when");
    const slider = viewer.querySelector("input");
    const play = viewer.querySelector("button");
    const stills = [...viewer.querySelectorAll(".strip a")];
    let timer = null;
    const sharpen = (still) => {
      const full = new Image();
      full.onload = () => { if (stills[slider.value] === still && timer === null) picture.src = full.src; };
      full.src = still.getAttribute("href");
    };
    const show = (index) => {
      slider.value = index;
      const still = stills[index];
      picture.src = still.querySelector("img").src;
      caption.textContent = still.dataset.caption;
      slider.setAttribute("aria-valuetext", still.dataset.caption);
      stills.forEach((other) => other.classList.toggle("now", other === still));
      const strip = still.parentElement;
      strip.scrollLeft = still.offsetLeft - strip.offsetLeft - strip.clientWidth / 2 + still.clientWidth / 2;
      if (timer === null) sharpen(still);
    };
    const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
    slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
    stills.forEach((still, index) => still.addEventListener("click", (event) => { event.preventDefault(); stop(); show(index); }));
    play.addEventListener("click", () => {
      if (timer !== null) { stop(); return; }
      if (Number(slider.value) === stills.length - 1) show(0);
      play.textContent = "Pause";
      timer = setInterval(() => {
        const next = Number(slider.value) + 1;
        if (next >= stills.length) { stop(); show(stills.length - 1); } else show(next);
      }, 250);
    });
    viewer.querySelector(".controls").hidden = stills.length < 2;
    show(stills.length - 1);
  }
  document.querySelectorAll(".chart").forEach((chart) => {
    const outputs = [...chart.querySelectorAll("output")];
    const last = outputs.map((output) => output.textContent);
    const write = (values) => outputs.forEach((output, index) => { output.textContent = values[index]; });
    chart.querySelectorAll(".hit").forEach((hit) =>
      hit.addEventListener("pointerenter", () => write(hit.dataset.values.split("|"))));
    chart.querySelector("svg").addEventListener("pointerleave", () => write(last));
  });
  document.querySelectorAll(".commands button").forEach((button) => button.addEventListener("click", () => {
    const code = button.parentElement.querySelector("code");
    const said = () => { button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500); };
    const select = () => { getSelection().selectAllChildren(code); };
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(said, select);
    else select();
  }));
})();
