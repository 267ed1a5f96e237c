// Faults in words: what was out of range, where it stood, what it was compared with, and what has not been written for it.
import type { Fault } from "../errors.ts";
import { enums } from "./layouts.ts";

const words: Readonly<Record<number, string>> = {
  [enums.FAULT_POSITION]: "position",
  [enums.FAULT_INDPTR]: "indptr",
  [enums.FAULT_ROW]: "row",
  [enums.FAULT_REQUEST]: "request",
  [enums.FAULT_PLACE]: "place",
  [enums.FAULT_PAGE]: "page",
  [enums.FAULT_SLOT]: "slot",
  [enums.FAULT_PAGES]: "pages",
  [enums.FAULT_SHARED]: "shared",
  [enums.FAULT_LENGTH]: "length",
};

/** The word of a rope_fault_code that the public Fault carries. */
export function faultWord(code: number): string {
  return words[code] ?? `fault ${code}`;
}

/** What an error says of a fault. */
export interface FaultText {
  /** The argument that the index stood in, where that is known. */
  readonly argument: string | undefined;
  readonly message: string;
}

/** A fault as a sentence. `name` gives the public name of a field of the block. */
export function faultText(fault: Fault, name: (field: string) => string): FaultText {
  const { code, index, limit, operation, request, value } = fault;
  const shifting = /^shift/.test(operation);
  const at = (field: string, text: string): FaultText => ({
    argument: name(field),
    message: `entry ${index} of ${name(field)} is ${text}`,
  });
  switch (code) {
    case "indptr":
      return at("indptr", `${value}, where entries rise from 0 to at most ${limit}; only rows of sound requests are written`);
    case "row":
      return {
        argument: undefined, // the position may have come from several
        message:
          `token ${index} in request ${request} has the position ${value}, where the table of cosines and sines has ${limit} rows; ` +
          "nothing of it has been written",
      };
    case "request":
      return at("batch_indices", `${value}, where there are ${limit} requests; nothing of that token has been written`);
    case "place": {
      const message =
        `token ${index} has the place ${value} in request ${request}, whose pages have ${limit}; nothing of it has been written`;
      return { argument: name("places"), message };
    }
    case "page":
      return at(
        "page_indices",
        `${value}, where the cache has ${limit} pages; what belongs there has not been ${shifting ? "turned" : "written"}`,
      );
    case "slot":
      return at("slots", `${value}, where the cache has ${limit} slots; nothing of that token has been written`);
    case "pages": {
      const rise = limit < 2 ** 63 ? `rise from 0 to at most ${limit}` : "rise from 0 on";
      return at(
        "page_indptr",
        `${value}, where entries ${rise}; nothing of request ${request} has been ${shifting ? "turned" : "written"}`,
      );
    }
    case "shared":
      return at("page_indices", `page ${value}, which stands in the table more than once; it has been left as it was`);
    case "length":
      return lengthText(fault, name);
  }
  if (shifting) {
    const message = `the delta ${value} of request ${request} is beyond the limit of ${limit}; its pages have not been turned`;
    return { argument: "delta", message };
  }
  const token = `token ${index} in request ${request}`;
  const sentence = Math.abs(value) < 2 ** 63 // the C library's largest int64 stands for everything beyond
    ? `the ${code} ${value} of ${token} is beyond the limit of ${limit}`
    : `the ${code} of ${token} is beyond +-2^63 or infinite, where the limit is ${limit}`;
  // No argument is named: the position may have come from positions, from offset or from offsets.
  return { argument: undefined, message: `${sentence}; its row has not been written` };
}

function lengthText({ limit, operation, request, value }: Fault, name: (field: string) => string): FaultText {
  if (/batchIndices/i.test(operation)) {
    const message = value < limit
      ? `request ${request} is ${value} long, where ${limit} tokens are appended to it; its tokens have not been written`
      : `request ${request} is ${value} long, where places are less than ${limit}; its tokens have not been written`;
    return { argument: name("seq_lens"), message };
  }
  const left = /^shift/.test(operation) ? "its pages have not been turned" : "its length has not been written";
  const argument = name("last_page_len");
  if (limit === 2 ** 31 - 1 && value > limit) {
    return { argument, message: `request ${request} is ${value} long, where int32 holds at most ${limit}; ${left}` };
  }
  const message =
    `the last page of request ${request} holds ${value} tokens, where it must be 1 to ${limit}, or 0 of a request without pages; ${left}`;
  return { argument, message };
}
