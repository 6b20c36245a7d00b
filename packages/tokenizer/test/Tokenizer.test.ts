import { assert, describe, it } from "@effect/vitest"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import type { TokenizerError } from "@uniprefill/tokenizer/TokenizerError"
import { Context, Effect, Fiber, FileSystem, Layer } from "effect"
import { NodeFileSystem } from "@effect/platform-node"
import fc from "fast-check"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const directory = fileURLToPath(new URL("../../needle-10m-deep", import.meta.url))
const needleJson = readFileSync(join(directory, "tokenizer.json"), "utf8")
const noSpecial = { addSpecialTokens: false }
const keepSpecial = { skipSpecialTokens: false }
const loremLine = "The quick brown fox packs five dozen liquor jugs, 1234567 of them; ünïcödé 🦔 too.\n"

describe("encode and decode", () => {
  it.effect("round-trips any text, on this thread and on the encoding thread alike", () =>
    Effect.gen(function* () {
      const inline = yield* Tokenizer
      const threaded = Context.get(yield* Layer.build(Tokenizer.layer({ directory, inlineLength: 0 })), Tokenizer)
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(fc.string({ unit: "binary", maxLength: 60 }), async (text) => {
            const here = await Effect.runPromise(inline.encode(text, noSpecial))
            assert.strictEqual(inline.decode(here, keepSpecial), text)
            assert.deepStrictEqual(await Effect.runPromise(threaded.encode(text, noSpecial)), here)
          }),
          { numRuns: 150 },
        ),
      )
    }).pipe(Effect.scoped, Effect.provide(Tokenizer.layer({ directory }))),
  )

  it.effect("knows its vocabulary", () =>
    Effect.gen(function* () {
      const tokenizer = yield* Tokenizer
      assert.strictEqual(tokenizer.vocabularySize, 4096)
      assert.deepStrictEqual(tokenizer.specialTokens, { bos: 0, eos: 1, all: [0, 1, 2] })
      assert.strictEqual(tokenizer.decode([0, 1], { skipSpecialTokens: true }), "")
      assert.strictEqual(tokenizer.decode([0, 1], keepSpecial), "<|bos|><|eos|>")
      const [token] = yield* tokenizer.encode(" the", noSpecial)
      assert.strictEqual(tokenizer.tokenText(token!), " the")
      assert.deepStrictEqual([...tokenizer.tokenBytes(token!)], [0x20, 0x74, 0x68, 0x65])
    }).pipe(Effect.provide(Tokenizer.layer({ directory }))),
  )
})

describe("the threads", () => {
  const long = loremLine.repeat(2_000)

  it.live("leaves the event loop free", () =>
    Effect.gen(function* () {
      const tokenizer = yield* Tokenizer
      yield* tokenizer.encode(long.slice(0, 5_000), noSpecial)
      let turns = 0
      const turn = () => {
        turns++
        turning = setImmediate(turn)
      }
      let turning = setImmediate(turn)
      const tokens = yield* tokenizer.encode(long, noSpecial)
      clearImmediate(turning)
      assert.isAbove(tokens.length, 20_000)
      assert.isAbove(turns, 5)
    }).pipe(Effect.provide(Tokenizer.layer({ directory }))),
  )

  it.live("refuses a text beyond the queue's limit, and serves on", () =>
    Effect.gen(function* () {
      const tokenizer = yield* Tokenizer
      const encode = tokenizer.encode(long, noSpecial)
      const running = yield* Effect.forkChild(encode, { startImmediately: true })
      const waiting = yield* Effect.forkChild(encode, { startImmediately: true })
      const refused = yield* Effect.flip(encode)
      assert.strictEqual(refused.reason, "QueueFull")
      assert.include(refused.detail, "the limit is 1")
      yield* Fiber.interrupt(waiting)
      const next = yield* Effect.forkChild(tokenizer.encode(long.slice(0, 9_000), noSpecial), {
        startImmediately: true,
      })
      assert.isAbove((yield* Fiber.join(running)).length, 0)
      assert.strictEqual(tokenizer.decode(yield* Fiber.join(next), keepSpecial), long.slice(0, 9_000))
    }).pipe(Effect.provide(Tokenizer.layer({ directory, maxWaiting: 1, threads: 2 }))),
  )

  it.live(
    "do not let a text that takes ages stand before a short one, nor one whose client left before a long one",
    () =>
      Effect.gen(function* () {
        const tokenizer = yield* Tokenizer
        const ages = yield* Effect.forkChild(tokenizer.encode(loremLine.repeat(150_000), noSpecial), {
          startImmediately: true,
        })
        yield* tokenizer.encode(long.slice(0, 5_000), noSpecial)
        assert.isUndefined(ages.pollUnsafe())
        yield* Fiber.interrupt(ages)
        assert.isAbove((yield* tokenizer.encode(long, noSpecial)).length, 20_000)
      }).pipe(Effect.provide(Tokenizer.layer({ directory }))),
  )

  it.live("throws the tokens of an interrupted text away and gives the next text its own", () =>
    Effect.gen(function* () {
      const tokenizer = yield* Tokenizer
      const running = yield* Effect.forkChild(tokenizer.encode(long, noSpecial), { startImmediately: true })
      yield* Fiber.interrupt(running)
      const text = loremLine.repeat(60)
      assert.strictEqual(tokenizer.decode(yield* tokenizer.encode(text, noSpecial), keepSpecial), text)
    }).pipe(Effect.provide(Tokenizer.layer({ directory }))),
  )

  it.live("fails a text whose thread cannot load the tokenizer, naming the cause", () =>
    withDirectory({ "tokenizer.json": needleJson }, (broken) =>
      Effect.gen(function* () {
        const tokenizer = yield* Tokenizer
        const fs = yield* FileSystem.FileSystem
        yield* fs.remove(join(broken, "tokenizer.json"))
        const error = yield* Effect.flip(tokenizer.encode(long, noSpecial))
        assert.strictEqual(error.reason, "ThreadFailed")
        assert.include(error.detail, "ENOENT")
      }).pipe(Effect.provide(Tokenizer.layer({ directory: broken }))),
    ),
  )

  it.effect("refuses a text beyond the length limit, naming both numbers", () =>
    Effect.gen(function* () {
      const tokenizer = yield* Tokenizer
      const error = yield* Effect.flip(tokenizer.encode("12345678901", noSpecial))
      assert.strictEqual(error.reason, "TextTooLong")
      assert.strictEqual(error.detail, "the text has 11 characters, the limit is 10")
    }).pipe(Effect.provide(Tokenizer.layer({ directory, maxTextLength: 10 }))),
  )
})

describe("chat templates", () => {
  const chat = {
    messages: [{ role: "user", content: "some text\nWhat is it?" }],
    addGenerationPrompt: true,
    continueFinalMessage: false,
    variables: {},
  }

  it.effect("renders the model's own", () =>
    Effect.gen(function* () {
      const tokenizer = yield* Tokenizer
      assert.isString(tokenizer.chatTemplate)
      assert.strictEqual(yield* tokenizer.renderChat(chat), "some text\nQuestion: What is it?\nAnswer:")
      const messages = [...chat.messages, { role: "assistant", content: "It is " }]
      const open = { ...chat, messages, addGenerationPrompt: false, continueFinalMessage: true }
      assert.strictEqual(yield* tokenizer.renderChat(open), "some text\nQuestion: What is it?\nAnswer: It is")
      const both = yield* Effect.flip(tokenizer.renderChat({ ...open, addGenerationPrompt: true }))
      assert.strictEqual(both.reason, "ChatTemplate")
      assert.strictEqual(both.field, "continue_final_message")
    }).pipe(Effect.provide(Tokenizer.layer({ directory }))),
  )

  const source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ mood }}"

  it.effect("leaves an answer open where its text ends, blanks as the template has them, also an empty one", () =>
    withDirectory(
      {
        "tokenizer.json": needleJson,
        "chat_template.jinja": "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}",
      },
      (path) =>
        Effect.gen(function* () {
          const tokenizer = yield* Tokenizer
          const render = (content: string) => {
            const messages = [...chat.messages, { role: "assistant", content }]
            return tokenizer.renderChat({ ...chat, messages, addGenerationPrompt: false, continueFinalMessage: true })
          }
          const before = "<user>some text\nWhat is it?</s><assistant>"
          assert.strictEqual(yield* render("It is "), `${before}It is `)
          assert.strictEqual(yield* render("some text"), `${before}some text`)
          assert.strictEqual(yield* render(""), before)
        }).pipe(Effect.provide(Tokenizer.layer({ directory: path }))),
    ),
  )

  it.effect("gives parts of content to a template that takes them, and one text to others", () =>
    Effect.gen(function* () {
      const parts = [
        { type: "text" as const, text: "a" },
        { type: "text" as const, text: "b" },
      ]
      const templates = {
        "{% for m in messages %}{{ m.content }}{% endfor %}": "a\nb",
        "{% for m in messages %}{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endfor %}": "[a][b]",
      }
      for (const [template, text] of Object.entries(templates)) {
        yield* withDirectory({ "tokenizer.json": needleJson, "chat_template.jinja": template }, (path) =>
          Effect.gen(function* () {
            const tokenizer = yield* Tokenizer
            assert.strictEqual(
              yield* tokenizer.renderChat({ ...chat, messages: [{ role: "user", content: parts }] }),
              text,
            )
          }).pipe(Effect.provide(Tokenizer.layer({ directory: path }))),
        )
      }
    }),
  )

  it.live("renders long chats on a thread, as here", () =>
    Effect.gen(function* () {
      const tokenizer = yield* Tokenizer
      const messages = [{ role: "user", content: `${loremLine.repeat(500)}What is it?` }]
      const text = yield* tokenizer.renderChat({ ...chat, messages })
      assert.strictEqual(text, `${loremLine.repeat(500).trimEnd()}\nQuestion: What is it?\nAnswer:`)
    }).pipe(Effect.provide(Tokenizer.layer({ directory }))),
  )

  it.effect("takes one from tokenizer_config.json, with special tokens and the request's variables", () =>
    withDirectory(
      {
        "tokenizer.json": needleJson,
        "tokenizer_config.json": JSON.stringify({
          bos_token: { content: "<|bos|>", lstrip: false },
          chat_template: [
            { name: "rag", template: "no" },
            { name: "default", template: source },
          ],
        }),
      },
      (path) =>
        Effect.gen(function* () {
          const tokenizer = yield* Tokenizer
          const variables = { mood: "!", bos_token: "stolen", messages: "stolen" }
          assert.strictEqual(yield* tokenizer.renderChat({ ...chat, variables }), "<|bos|>some text\nWhat is it?!")
        }).pipe(Effect.provide(Tokenizer.layer({ directory: path }))),
    ),
  )

  it.effect("says so when the model has none, and reports a template's own refusal", () =>
    withDirectory(
      { "tokenizer.json": needleJson, "t.jinja": "{{ raise_exception('roles must alternate') }}" },
      (path) =>
        Effect.gen(function* () {
          const none = yield* Effect.provide(Tokenizer, Tokenizer.layer({ directory: path }))
          assert.isNull(none.chatTemplate)
          assert.strictEqual((yield* Effect.flip(none.renderChat(chat))).reason, "NoChatTemplate")
          const chatTemplate = join(path, "t.jinja")
          const refusing = yield* Effect.provide(Tokenizer, Tokenizer.layer({ directory: path, chatTemplate }))
          const error = yield* Effect.flip(refusing.renderChat(chat))
          assert.strictEqual(error.reason, "ChatTemplate")
          assert.strictEqual(error.message, `${chatTemplate}: roles must alternate`)
        }),
    ),
  )
})

describe("a model directory with a fault", () => {
  const json = JSON.parse(needleJson) as Record<string, unknown> & { model: Record<string, unknown> }
  const cases: Array<{
    name: string
    files: Record<string, string>
    reason: TokenizerError["reason"]
    file: string
    says: string
  }> = [
    { name: "no tokenizer.json", files: {}, reason: "MissingFile", file: "tokenizer.json", says: "no such file" },
    {
      name: "a truncated tokenizer.json",
      files: { "tokenizer.json": needleJson.slice(0, 1000) },
      reason: "InvalidJson",
      file: "tokenizer.json",
      says: "JSON",
    },
    {
      name: "a special token that is no string",
      files: { "tokenizer.json": JSON.stringify({ ...json, added_tokens: [{ id: 0, content: 7 }] }) },
      reason: "InvalidField",
      file: "tokenizer.json",
      says: "added_tokens[0].content: Expected string",
    },
    {
      name: "a token id that is no id",
      files: { "tokenizer.json": JSON.stringify({ ...json, model: { ...json.model, vocab: { a: -1 } } }) },
      reason: "InvalidField",
      file: "tokenizer.json",
      says: 'model.vocab["a"]: not a token id in 0 … 16777215: -1',
    },
    {
      name: "a decoder of an unknown kind",
      files: { "tokenizer.json": JSON.stringify({ ...json, decoder: { type: "CTC" } }) },
      reason: "Unsupported",
      file: "tokenizer.json",
      says: 'decoder: decoder type "CTC"',
    },
    {
      name: "a normalizer of an unknown kind",
      files: { "tokenizer.json": JSON.stringify({ ...json, normalizer: { type: "Rot13" } }) },
      reason: "Unsupported",
      file: "tokenizer.json",
      says: "Rot13",
    },
    {
      name: "a broken tokenizer_config.json",
      files: { "tokenizer.json": needleJson, "tokenizer_config.json": '{"bos_token": 3}' },
      reason: "InvalidField",
      file: "tokenizer_config.json",
      says: "tokenizer_config.json: bos_token: ",
    },
    {
      name: "a chat template that does not parse",
      files: { "tokenizer.json": needleJson, "chat_template.jinja": "{% for m in %}" },
      reason: "Unsupported",
      file: "chat_template.jinja",
      says: "chat_template: ",
    },
  ]
  for (const { name, files, reason, file, says } of cases) {
    it.effect(`names ${name}`, () =>
      withDirectory(files, (path) =>
        Effect.gen(function* () {
          const error = yield* Effect.flip(Effect.provide(Tokenizer, Tokenizer.layer({ directory: path })))
          assert.strictEqual(error.reason, reason)
          assert.strictEqual(error.file, join(path, file))
          assert.include(error.message, says)
        }),
      ),
    )
  }
})

/** Runs a test over a directory that holds `files` and is removed afterwards. */
function withDirectory<E, R>(files: Record<string, string>, use: (path: string) => Effect.Effect<void, E, R>) {
  return Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* fs.makeTempDirectoryScoped({ prefix: "uniprefill-tokenizer-" })
    for (const [name, text] of Object.entries(files)) yield* fs.writeFileString(join(path, name), text)
    yield* use(path)
  }).pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer))
}
