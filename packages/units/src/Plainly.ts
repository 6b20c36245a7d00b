/** How the system names a fault: code, words, call and path. */
const systemFault = /\bE[A-Z]{3,}: ([^,:]+), [a-z]+(?: '[^']*')?(?: -> '[^']*')?/g

/** What a terminal would act upon and not show. */
const control = /[^\P{Cc}\t\n]/gu

/** A message for people: what the system says without its codes, which name the file again, and nothing that moves a cursor. */
export const plainly = (message: string): string =>
  message
    .replaceAll(systemFault, "$1")
    .replaceAll("illegal operation on a directory", "it is a directory")
    .replaceAll("incorrect header check", "not gzip data")
    .replaceAll(control, "\ufffd")
