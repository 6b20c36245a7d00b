import { main } from "./src/Child.mjs"
import { setVersion } from "./src/Version.mjs"
import { Failure, say } from "./src/Terminal.mjs"

/** `npm run set-version -- X.Y.Z`: writes the version into every manifest. */
main(async () => {
  const [version] = process.argv.slice(2)
  if (version === undefined) throw new Failure("no version was given", "npm run set-version -- 0.2.0")
  setVersion(version)
  say("Now run `npm install --package-lock-only --ignore-scripts`, and say in CHANGELOG.md what is new.")
  return 0
})
