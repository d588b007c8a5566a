"""What a page adds for a policy that answers one image with one choice: an image in, what it says, and where it looks.

Where it looks is an occlusion map (Zeiler & Fergus 2014): a grey patch goes over the image, and a place counts by how
much the answer's lead falls while it is covered.
"""

STYLE = """
.ask { display: grid; grid-template-columns: minmax(0, 20rem) minmax(0, 1fr); gap: 1.5rem; align-items: start; }
@media (max-width: 600px) { .ask { grid-template-columns: minmax(0, 1fr); } }
.ask canvas { display: block; width: 100%; image-rendering: pixelated; background: #000; }
.ask label { display: inline-flex; gap: .4rem; align-items: center; min-height: 2rem; }
#answer { font-size: 1.6rem; font-weight: 600; line-height: 1.2; margin: 0 0 .8rem; }
#bars { display: grid; grid-template-columns: auto minmax(0, 1fr) auto; gap: .4rem .7rem; align-items: center; }
#bars b { font-weight: 400; } #bars i { display: block; height: .7rem; background: var(--line); }
#bars i span { display: block; height: 100%; background: var(--strong); }
#bars em { font-style: normal; text-align: right; font-variant-numeric: tabular-nums; }
#samples { display: flex; gap: .4rem; overflow-x: auto; padding: .2rem .2rem .6rem; margin-top: .4rem; }
#samples button { flex: none; padding: 0; border: 2px solid transparent; background: none; cursor: pointer; }
#samples button[aria-pressed=true] { border-color: var(--strong); }
#samples canvas { width: 3.5rem; }
#drop { border: 1px dashed var(--soft); padding: .8rem; margin-top: 1rem; }
#drop.over { border-color: var(--strong); } #drop input { max-width: 100%; font: inherit; color: inherit; }
.keys span { white-space: nowrap; margin-right: .8rem; }
.keys i { display: inline-block; width: .8rem; height: .8rem; vertical-align: -.05rem; margin-right: .35rem; }
"""

BODY = """
<section class="ask" id="ask" hidden>
<div>
<canvas id="seen" role="img" aria-label="the image as the policy sees it"></canvas>
<label><input type="checkbox" id="looks" checked> where it looks</label>
<div class="soft keys"><span><i style="background:#e8871e"></i>speaks for the answer</span>
<span><i style="background:#3f8fd9"></i>speaks against it</span></div>
</div>
<div>
<p id="answer" aria-live="polite"></p>
<div id="bars"></div>
<div id="drop"><label for="file">Drop an image here, or choose one:</label>
<input type="file" id="file" accept="image/*">
<div class="soft" id="note"></div></div>
<p class="soft" style="margin-bottom:0">Images that the policy met as it was checked:</p>
<div id="samples"></div>
</div>
</section>
"""

SCRIPT = """
if (data.image) {
  const [channels, height, width] = data.image, area = height * width;
  const at = id => document.getElementById(id), pen = at("seen").getContext("2d");
  const names = data.choices;
  const heard = () => new Float32Array(policy.memory.buffer, policy.policy_numbers.value, data.width);
  function numbers(obs) {
    seat.set(obs);
    policy.policy_values(policy.policy_buffer.value, policy.policy_numbers.value);
    return Array.from(heard());
  }
  const others = (all, best) => all.length > 1 ? Math.max(...all.filter((_, i) => i !== best)) : 0;
  const lead = (all, best) => all[best] - others(all, best);
  function softmax(all) {
    const most = Math.max(...all), parts = all.map(n => Math.exp(n - most)), sum = parts.reduce((a, b) => a + b);
    return parts.map(n => n / sum);
  }
  function colours(obs) { /* as ImageData */
    const shown = new ImageData(width, height);
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) shown.data[4 * i + c] = obs[(channels === 3 ? c : 0) * area + i];
      shown.data[4 * i + 3] = 255;
    }
    return shown;
  }
  function looks(obs, best) { /* how much the lead falls where a patch lies, mean over the patches that cover a place */
    const whole = lead(numbers(obs), best), side = Math.max(2, Math.round(Math.min(height, width) / 8));
    const step = Math.max(1, side >> 1), falls = new Float32Array(area), covers = new Float32Array(area);
    const means = Array.from({ length: channels }, (_, c) => {
      let sum = 0;
      for (let i = 0; i < area; i++) sum += obs[c * area + i];
      return sum / area;
    });
    for (let top = -step; top < height; top += step) for (let left = -step; left < width; left += step) {
      const covered = obs.slice(), places = [];
      for (let y = Math.max(top, 0); y < Math.min(top + side, height); y++)
        for (let x = Math.max(left, 0); x < Math.min(left + side, width); x++) places.push(y * width + x);
      for (const i of places) for (let c = 0; c < channels; c++) covered[c * area + i] = means[c];
      const fall = whole - lead(numbers(covered), best);
      for (const i of places) { falls[i] += fall; covers[i]++; }
    }
    return falls.map((sum, i) => sum / Math.max(covers[i], 1));
  }
  let now = null;
  function draw() {
    const shown = colours(now.obs), most = now.map.reduce((m, n) => Math.max(m, Math.abs(n)), 1e-9);
    if (at("looks").checked) now.map.forEach((fall, i) => {
      const share = 0.75 * Math.abs(fall) / most, paint = fall > 0 ? [232, 135, 30] : [63, 143, 217];
      for (let c = 0; c < 3; c++) shown.data[4 * i + c] = (1 - share) * shown.data[4 * i + c] + share * paint[c];
    });
    at("seen").width = width; at("seen").height = height;
    pen.putImageData(shown, 0, 0);
  }
  function ask(obs, note = "") {
    const all = numbers(obs), best = all.indexOf(Math.max(...all));
    now = { obs, map: looks(obs, best) };
    const said = data.logits ? softmax(all) : all, text = n => data.logits ? (100 * n).toFixed(1) + " %" : n.toFixed(3);
    at("answer").textContent = names[best];
    at("bars").replaceChildren(...said.flatMap((n, i) => {
      const name = document.createElement("b"), bar = document.createElement("i"), told = document.createElement("em");
      name.textContent = names[i]; told.textContent = text(n);
      if (data.logits) {
        bar.append(document.createElement("span"));
        bar.firstChild.style.width = 100 * n + "%";
      } else bar.style.visibility = "hidden";
      return [name, bar, told];
    }));
    at("note").textContent = note;
    document.body.dataset.said = names[best];
    draw();
  }
  const rounded = n => { const up = Math.round(n); return up - n === 0.5 && up % 2 ? up - 1 : up; }; /* as NumPy does */
  function shrink(pixels, wide, high) { /* mean over what each place covers, as it was for training */
    const obs = new Kind(channels * area);
    if (data.luma) for (let i = 0; i < pixels.length; i += 4) /* the environment's own grey, cut, and then shrunk */
      pixels[i] = Math.trunc(pixels[i] * data.luma[0] + pixels[i + 1] * data.luma[1] + pixels[i + 2] * data.luma[2]);
    const span = (k, n, whole) => [k * whole / n, (k + 1) * whole / n];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      const [top, bottom] = span(y, height, high), [left, right] = span(x, width, wide), sum = [0, 0, 0];
      let weight = 0;
      for (let v = Math.floor(top); v < bottom; v++) for (let u = Math.floor(left); u < right; u++) {
        const part = (Math.min(v + 1, bottom) - Math.max(v, top)) * (Math.min(u + 1, right) - Math.max(u, left));
        const i = 4 * (Math.min(v, high - 1) * wide + Math.min(u, wide - 1));
        for (let c = 0; c < 3; c++) sum[c] += part * pixels[i + c];
        weight += part;
      }
      const [r, g, b] = sum.map(n => n / weight), i = y * width + x;
      if (channels === 1) obs[i] = rounded(data.luma ? r : 0.299 * r + 0.587 * g + 0.114 * b);
      else [r, g, b].forEach((n, c) => { obs[c * area + i] = rounded(n); });
    }
    return obs;
  }
  async function read(file) {
    const pressed = document.querySelector("#samples [aria-pressed=true]");
    if (!file) return;
    const picture = await createImageBitmap(file).catch(() => null);
    if (!picture) { at("note").textContent = `${file.name} is no image that this browser reads`; return; }
    const fit = Math.min(1, 2048 / Math.max(picture.width, picture.height));
    const wide = Math.max(1, Math.round(picture.width * fit)), high = Math.max(1, Math.round(picture.height * fit));
    const board = document.createElement("canvas");
    board.width = wide; board.height = high;
    const brush = board.getContext("2d");
    brush.drawImage(picture, 0, 0, wide, high);
    if (pressed) pressed.ariaPressed = "false";
    ask(shrink(brush.getImageData(0, 0, wide, high).data, wide, high), `${file.name}, shrunk to ${width} × ${height}`);
  }
  function sample(obs) {
    const button = document.createElement("button"), small = document.createElement("canvas");
    small.width = width; small.height = height;
    small.getContext("2d").putImageData(colours(obs), 0, 0);
    button.append(small);
    button.onclick = () => {
      for (const other of at("samples").children) other.ariaPressed = String(other === button);
      ask(obs);
    };
    return button;
  }
  const samples = data.actions.slice(0, 24).map((_, i) => sample(observation(i)));
  samples.forEach((button, i) => { button.ariaLabel = `image ${i + 1}`; });
  at("samples").append(...samples);
  at("file").onchange = event => { read(event.target.files[0]); event.target.value = ""; }; /* or not twice the same */
  at("looks").onchange = draw;
  for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]])
    document.addEventListener(name, event => {
      event.preventDefault();
      at("drop").className = over ? "over" : "";
      if (name === "drop") read(event.dataTransfer.files[0]);
    });
  at("ask").hidden = false; at("shown").hidden = true;
  samples[0].click();
}
"""
