/* The line that says how things are, and what can be done about it. */

import { $ } from "./elements.js";
import { hasKey, Refusal, useKey } from "./server.js";

let countdown = 0;

export function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
  $("again").hidden = true;
  clearTimeout(countdown);
}

/** What the server, or its silence, says. `again` is called where trying again may help; `meet` once there is a key. */
export function refused(error, again, meet) {
  if (!(error instanceof Refusal)) {
    say(`This is no answer that the page understands: ${error.message}`, true);
    throw error; // for the console
  }
  say(error.message, true);
  if (error.status === 401) return askForKey(meet);
  if (!error.canRetry) return;
  $("again").hidden = false;
  $("again").onclick = again;
  wait(Math.ceil(error.retryAfterS));
}

/** The button counts down: to try sooner than the server says only adds to its load. */
function wait(seconds) {
  $("again").disabled = seconds > 0;
  $("again").textContent = seconds > 0 ? `Try again in ${seconds} s` : "Try again";
  if (seconds > 0) countdown = setTimeout(wait, 1000, seconds - 1);
}

function askForKey(meet) {
  say(hasKey() ? "The server does not take this key." : "This server needs a key.", true);
  $("key-form").hidden = false;
  $("key").focus();
  $("key-form").onsubmit = (event) => {
    event.preventDefault();
    useKey($("key").value);
    $("key").value = "";
    $("key-form").hidden = true;
    meet();
  };
}
