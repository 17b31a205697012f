/** What a person can mend: its message is shown as it is. */
export class Sentence extends Error {}

/** Whether a part of the page did not come, as browsers and onnxruntime say it. @param {unknown} error */
export const isLost = error => /fetch|import|network|load failed/i.test(String(error));
