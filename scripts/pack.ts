// bun run pack: makes librope-rope-<version>.tgz, which `bun add ./librope-rope-<version>.tgz` installs. It holds the sources and, for
// machines like this one, the library (bun's `prepack` script builds it).
// deno-lint-ignore-file no-console
import { statSync } from "node:fs";
import process from "node:process";
import { install } from "./support/install.ts";
import { inProject } from "./support/paths.ts";
import { main } from "./support/process.ts";
import { pack } from "./support/pack.ts";

await main(async () => {
  await install();
  const tarball = await pack(inProject());
  const megabytes = (statSync(tarball).size / 1e6).toFixed(1);
  console.log(`${tarball} (${megabytes} MB, librope.so for ${process.platform} ${process.arch})\nIn a Bun project: bun add ${tarball}`);
});
