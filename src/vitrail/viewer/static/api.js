// What the server is asked; every answer that is none becomes an Error with one line for the eye.

import { t } from "./texts.js";

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(t("error.server"));
  }
  if (response.ok) return response;
  let line = "";
  try {
    line = (await response.json()).error;
  } catch {
    line = t("error.status", { status: response.status });
  }
  throw new Error(line);
}

/** Returns why an address that a picture was taken from answers with none. */
export async function reason(path, otherwise) {
  try {
    await ask(path, {});
  } catch (error) {
    return error;
  }
  return new Error(otherwise);
}

/** Reads JSON. */
export async function getJson(path, signal) {
  return (await ask(path, { signal })).json();
}

/** Asks a question in JSON. */
export async function postJson(path, question, signal) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(question), signal })).json();
}

/** Reads raw numbers. */
export async function getNumbers(path, kind) {
  const content = await (await ask(path, {})).arrayBuffer();
  return kind === "class" ? new Uint8Array(content) : new Float32Array(content);
}

/** Returns the numbers of a map that came as base64 of float32. */
export function decodeFloats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
