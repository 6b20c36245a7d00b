const codes =
  "EACCES|EADDRINUSE|EADDRNOTAVAIL|EAGAIN|EBADF|EBUSY|EEXIST|EFBIG|EINVAL|EIO|EISDIR|ELOOP|EMFILE|ENAMETOOLONG|ENFILE|ENOENT|ENOMEM|ENOSPC|ENOTDIR|ENOTEMPTY|ENXIO|EPERM|EPIPE|EROFS|ETXTBSY|EXDEV"

/** How the system names a fault: code, words, call and path or paths. */
const systemFault = new RegExp(`\\b(?:${codes}): ([^,:]+), [a-z]+(?: '[^\\n]*')?`, "g")

/** What a terminal would act upon and not show. */
const control = /[^\P{Cc}\t\n]/gu

/** A message for people: what the system says without its codes, which name the file again, and nothing that moves a cursor. */
export const plainly = (message: string): string =>
  message
    .replaceAll(systemFault, "$1")
    .replaceAll("illegal operation on a directory", "it is a directory")
    .replaceAll("incorrect header check", "not gzip data")
    .replaceAll(control, "\ufffd")
