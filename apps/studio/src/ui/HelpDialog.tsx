import { Dialog } from "./Dialog.tsx"

const keys: ReadonlyArray<readonly [string, string]> = [
  ["← →", "previous, next step of the same replica; with Shift a hundred"],
  ["↑ ↓", "previous, next request in the picture"],
  ["n", "next step where a prompt waits"],
  ["b", "branch at the selected step"],
  ["w s", "zoom in, out; the wheel does too"],
  ["a d", "pan; Page Up and Page Down by a screen"],
  ["z", "zoom to the selected step"],
  ["f", "show the whole run"],
  ["Home End", "first, last step"],
  ["1 2 3 4", "Scenario, Timeline, Compare, Report"],
  ["Ctrl+Enter", "in the form: run"],
  ["Escape", "select no request"],
  ["?", "this"],
]

export const HelpDialog = ({ onClose }: { readonly onClose: () => void }) => (
  <Dialog title="Keys" onClose={onClose}>
    <dl className="keys">
      {keys.map(([key, what]) => (
        <div key={key}>
          <dt>
            {key.split(" ").map((one) => (
              <kbd key={one}>{one}</kbd>
            ))}
          </dt>
          <dd>{what}</dd>
        </div>
      ))}
    </dl>
    <p className="soft">
      Keys of the timeline work while it has the focus. Drag to pan, pinch to zoom, click a slice or a request to look
      at it. Everything is simulated in this page: nothing is sent anywhere, and a trace stays on your machine.
    </p>
  </Dialog>
)
