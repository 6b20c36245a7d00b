// Applies a plan to the books, section by section, and checks every record against what those before it left.
#pragma once

#include "plan/books.h"
#include "plan/codec.h"
#include "plan/step_work.h"

namespace up {

// Fails with UP_INVALID_PLAN naming section, record and numbers; the books are then half changed and must be reset. What it returns
// holds together: rows that are read are there, rows that are written belong to nobody else.
StepWork apply_plan(Books &books, const Plan &plan, const TakeContent &take);

}  // namespace up
