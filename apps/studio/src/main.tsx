import { createRoot } from "react-dom/client"
import { App } from "./App.tsx"
import { StudioContext } from "./state/Context.ts"
import { Studio } from "./state/Studio.ts"
import "./style/base.css"
import "./style/views.css"

const studio = new Studio()
void studio.start(window.location.hash)

createRoot(document.getElementById("root")!).render(
  <StudioContext value={studio}>
    <App />
  </StudioContext>,
)
