import { serveTokenizer } from "./TokenizerThread.ts"

serveTokenizer()
