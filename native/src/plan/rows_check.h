// Checks the rows that a plan has computed: what they read is there, what they write belongs to nobody else, and they come in order.
#pragma once

#include "plan/books.h"
#include "plan/codec.h"
#include "plan/step_work.h"

namespace up {

// Fills work.items and work.samples. Fails with UP_INVALID_PLAN naming section, record and numbers.
void check_rows(const Books &books, const Plan &plan, StepWork &work);

}  // namespace up
