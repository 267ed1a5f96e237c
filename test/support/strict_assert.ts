// Loaded before the examples of the documentation: a console.assert that fails, which otherwise only prints, fails the example.
// deno-lint-ignore-file no-console
console.assert = (condition?: boolean, ...data: unknown[]): void => {
  if (!condition) throw new Error(["Assertion failed", ...data].join(" "));
};
