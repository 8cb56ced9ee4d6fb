// The form of the demo: an image, audio clips from files or the microphone, a card for each answer.
function wav(channels, rate) { // the mean of all channels → a WAV of 16 bits
  const n = channels[0].length, view = new DataView(new ArrayBuffer(44 + 2 * n));
  [0x46464952, 36 + 2 * n, 0x45564157, 0x20746d66, 16, 0x10001, rate, 2 * rate, 0x100002,
    0x61746164, 2 * n].forEach((x, i) => view.setUint32(4 * i, x, true)); // RIFF, WAVE, fmt, data
  for (let i = 0; i < n; i++) {
    const x = channels.reduce((sum, c) => sum + c[i], 0) / channels.length;
    view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(x * 32768))), true);
  }
  return new Blob([view.buffer]);
}

const base64 = (blob) => new Promise((ok, fail) => Object.assign(new FileReader(), {
  onerror: () => fail(Error("a file cannot be read")),
  onload: (event) => ok(event.target.result.split(",")[1]) }).readAsDataURL(blob));

function demoForm() {
  const cards = el("div", { className: "cards" }), state = el("p", { aria: { live: "polite" } });
  const say = (text, isError) => Object.assign(state, { textContent: text,
    className: isError ? "error" : "dim" });
  const picked = el("img", { alt: "", hidden: true, height: 90 });
  let image = null, recorder = null, last = Promise.resolve();

  async function send(blob, name) {
    const decoder = new OfflineAudioContext(1, 1, 44100); // its rate is that of what it decodes
    const sound = await decoder.decodeAudioData(await blob.arrayBuffer());
    const channels = [...Array(sound.numberOfChannels).keys()].map((c) => sound.getChannelData(c));
    const audio = await base64(wav(channels, sound.sampleRate));
    const body = JSON.stringify({ name, image: await base64(image), audio });
    if (body.length > data.demo.limit) throw new Error("too large");
    const answer = await fetch("/locate", { method: "POST", body,
      headers: { "X-Token": data.demo.token } }), result = await answer.json();
    if (!answer.ok) throw new Error(result.error);
    cards.prepend(card(result.samples[0], result, result.audio));
  }
  function take(file) {
    if (file.type.startsWith("image/")) {
      image = Object.assign(picked, { src: URL.createObjectURL(file), hidden: false }) && file;
      return say(`${file.name}; now an audio clip`);
    }
    if (!image) return say("first an image", true);
    say(`listening to ${file.name} …`);
    last = last.then(() => send(file, file.name)).then(() => say(""), (e) => say(e.message, true));
  }
  const input = el("input", { type: "file", multiple: true, accept: "image/*,audio/*", id: "file",
    onchange: () => { [...input.files].forEach(take); input.value = ""; } });
  const drop = el("label", { className: "drop", htmlFor: "file" }, picked,
    " Drop an image here, then audio clips; or choose files: ", input);
  drop.addEventListener("dragover", (e) => { e.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (e) => {
    e.preventDefault(); drop.classList.remove("over"); [...e.dataTransfer.files].forEach(take);
  });
  const record = el("button", { type: "button", onclick: async () => {
    if (recorder) return recorder.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true }), parts = [];
      recorder = Object.assign(new MediaRecorder(stream), {
        ondataavailable: (e) => parts.push(e.data), onstop: () => {
          stream.getTracks().forEach((track) => track.stop());
          [recorder, record.textContent] = [null, "record audio"];
          take(new File(parts, "recording", { type: "audio/x" }));
        } });
      recorder.start();
      record.textContent = "stop";
    } catch (e) { say(e.message, true); }
  } }, "record audio");
  return [drop, el("p", {}, record), state, legend(), cards];
}
