#include "decode/step_curve.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace specrt {

double step_ms(const std::vector<StepTime>& curve, int32_t rows) {
  const auto above = std::lower_bound(curve.begin(), curve.end(), rows,
                                      [](const StepTime& at, int32_t r) { return at.rows < r; });
  if (above == curve.end()) return curve.back().milliseconds;
  if (above == curve.begin() || above->rows == rows) return above->milliseconds;
  const StepTime& below = *(above - 1);
  const double share = static_cast<double>(rows - below.rows) / (above->rows - below.rows);
  return below.milliseconds + share * (above->milliseconds - below.milliseconds);
}

void check_curve(const std::vector<StepTime>& curve) {
  int32_t rows = 0;
  for (const StepTime& at : curve) {
    if (at.rows <= rows) fail_argument("step costs need ascending rows from 1, not ", at.rows);
    if (!(at.milliseconds > 0) || std::isinf(at.milliseconds)) {
      fail_argument("step costs must be positive milliseconds, not ", at.milliseconds);
    }
    rows = at.rows;
  }
}

}  // namespace specrt
