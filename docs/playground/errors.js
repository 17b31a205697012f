/** What a person can mend: its message is shown as it is. */
export class Sentence extends Error {}
