/** A queue in which callers take turns: who has many jobs waiting is served no sooner than who has one. */
export class FairQueue<Job extends object> {
  /** Each caller's jobs in order of arrival; the callers in order of their next turn. */
  private readonly callers = new Map<string, Set<Job>>()
  private count = 0

  get size(): number {
    return this.count
  }

  add(caller: string, job: Job): void {
    const jobs = this.callers.get(caller)
    if (jobs === undefined) this.callers.set(caller, new Set([job]))
    else jobs.add(job)
    this.count++
  }

  /** The job whose turn it is, taken out; its caller's next turn is last. */
  take(): Job | undefined {
    const [next] = this.callers
    if (next === undefined) return undefined
    const [caller, jobs] = next
    const [job] = jobs
    this.remove(caller, job!)
    const left = this.callers.get(caller)
    if (left !== undefined) {
      this.callers.delete(caller)
      this.callers.set(caller, left)
    }
    return job
  }

  /** Whether the job was there. */
  remove(caller: string, job: Job): boolean {
    const jobs = this.callers.get(caller)
    if (jobs === undefined || !jobs.delete(job)) return false
    if (jobs.size === 0) this.callers.delete(caller)
    this.count--
    return true
  }

  /** Takes out all jobs. */
  clear(): ReadonlyArray<Job> {
    const all = [...this.callers.values()].flatMap((jobs) => [...jobs])
    this.callers.clear()
    this.count = 0
    return all
  }
}
