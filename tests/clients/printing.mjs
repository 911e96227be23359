// What the scripts share: one JSON object per line for the test that runs them, and a short wait before another try.
import { textOf } from './reply.mjs';

const line = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

export const print = {
  line,
  seen: (text) => line({ seen: [...text].length }), // in characters, as Python counts them
  titles: (titles) => line({ titles }),
  finished: (replyId, reply) => line({ replyId, status: reply.status, text: textOf(reply) }),
};

export const pause = () => new Promise((resolve) => setTimeout(resolve, 10));
