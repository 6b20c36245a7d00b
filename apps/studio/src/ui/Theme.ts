import { useEffect, useState } from "react"

export const themeChoices = ["auto", "light", "dark"] as const
export type ThemeChoice = (typeof themeChoices)[number]

const key = "uniprefill-studio-theme"

const kept = (): ThemeChoice => {
  try {
    const value = window.localStorage.getItem(key)
    return themeChoices.find((one) => one === value) ?? "auto"
  } catch {
    return "auto"
  }
}

/** The theme that was chosen, and whether that is a dark one here and now. The document shows it too. */
export const useTheme = (): readonly [choice: ThemeChoice, isDark: boolean, choose: (choice: ThemeChoice) => void] => {
  const [choice, setChoice] = useState(kept)
  const [systemIsDark, setSystemIsDark] = useState(() => window.matchMedia("(prefers-color-scheme: dark)").matches)
  useEffect(() => {
    const query = window.matchMedia("(prefers-color-scheme: dark)")
    const listener = () => setSystemIsDark(query.matches)
    query.addEventListener("change", listener)
    return () => query.removeEventListener("change", listener)
  }, [])
  const isDark = choice === "dark" || (choice === "auto" && systemIsDark)
  useEffect(() => {
    document.documentElement.dataset["theme"] = isDark ? "dark" : "light"
  }, [isDark])
  const choose = (next: ThemeChoice) => {
    setChoice(next)
    try {
      window.localStorage.setItem(key, next)
    } catch {
      // A browser that keeps nothing: the choice lives as long as the page.
    }
  }
  return [choice, isDark, choose]
}
