import { readlinkSync } from "node:fs"
import { getPriority, setPriority } from "node:os"

/**
 * Lets other threads go first where processors are short: for work that nobody waits for as much as for the event loop. Has no
 * effect where the system does not tell threads apart.
 */
export const giveWay = (niceness: number): void => {
  try {
    // PROCESS/task/THREAD
    const thread = Number(readlinkSync("/proc/thread-self").split("/").at(-1))
    setPriority(thread, Math.min(19, getPriority(thread) + niceness))
  } catch {
    // Not Linux, or not allowed: the thread is as good as any.
  }
}
