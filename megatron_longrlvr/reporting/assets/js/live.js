// A page that is served asks for newer data now and then, and shows them where the reader is.

function startLive(refresh_s) {
  if (!refresh_s) return;
  const state = { tag: null };
  const said = document.getElementById("live");
  const look = async () => {
    try {
      const response = await fetch("data.json", { headers: state.tag ? { "If-None-Match": state.tag } : {}, cache: "no-store" });
      if (response.status === 200) {
        state.tag = response.headers.get("ETag");
        const data = await response.json();
        if (!isReading()) takeIn(data);
        else state.tag = null;
      } else if (response.status !== 304) throw new Error(`the server says ${response.status}`);
      said.textContent = `live, ${new Date().toLocaleTimeString()}`;
      said.className = "live";
    } catch (error) {
      said.textContent = `not reached since ${new Date().toLocaleTimeString()}: ${error.message}`;
      said.className = "live lost";
    }
    setTimeout(look, refresh_s * 1000);
  };
  setTimeout(look, refresh_s * 1000);
}

// Whoever reads a rollout or types is not interrupted; the next look brings the data.
function isReading() {
  const active = document.activeElement;
  const isTyping = active && ["INPUT", "SELECT", "TEXTAREA"].includes(active.tagName);
  return isTyping || store.view.section === "rollouts";
}

function takeIn(data) {
  const top = document.documentElement.scrollTop;
  load(data);
  rebuildSections();
  document.documentElement.scrollTop = top;
}
