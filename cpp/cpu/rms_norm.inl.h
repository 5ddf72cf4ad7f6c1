// rms_norm: out[i,:] = x[i,:] * gain / sqrt(mean(x[i,:]^2) + eps)
// x (n,d) f32; gain (d) f32; out (n,d) f32 or bf16, not x
// one item per row; 16 sums per row, lane by lane, then a fixed tree
// moves 4nd + 4d bytes in, nd values out; memory bound
// sums in f32; the result rounds once
// any d; values beyond d are neither read nor written

template <typename Write>
inline void scale_row(const float* x, const float* gain, float factor, int32_t cols, Write write) {
  int32_t k = 0;
  for (; k + kLanes <= cols; k += kLanes) {
    write(k, load<Vec>(x + k) * factor * load<Vec>(gain + k), kLanes);
  }
  if (k < cols)
    write(k, load_first(x + k, cols - k) * factor * load_first(gain + k, cols - k), cols - k);
}

// 1 / sqrt(mean(x^2) + eps)
inline float norm_factor(const float* x, int32_t cols, float eps) {
  Vec sums{};
  int32_t k = 0;
  for (; k + kLanes <= cols; k += kLanes) sums = fma(load<Vec>(x + k), load<Vec>(x + k), sums);
  const Vec rest = load_first(x + k, cols - k);
  sums = fma(rest, rest, sums);
  return 1.0f / std::sqrt(sum_lanes(sums) / static_cast<float>(cols) + eps);
}

inline void norm_row(const RmsNormArgs& args, int32_t row) {
  const float* x = args.x.row<float>(row);
  const int32_t cols = args.x.cols;
  const float factor = norm_factor(x, cols, args.eps);
  if (args.out.dtype == DType::f32) {
    float* out = args.out.row<float>(row);
    scale_row(x, args.gain, factor, cols,
              [out](int32_t at, Vec v, int32_t count) { store_first(out + at, v, count); });
  } else {
    bf16_bits* out = args.out.row<bf16_bits>(row);
    scale_row(x, args.gain, factor, cols,
              [out](int32_t at, Vec v, int32_t count) { store_first(out + at, narrow(v), count); });
  }
}

void rms_norm(const RmsNormArgs& args, const RowList& rows, Team& team) {
  const int64_t bytes = static_cast<int64_t>(rows.count) * args.x.cols * 8;
  team.parallel(rows.count, bytes,
                [&](int item, int) { norm_row(args, rows.rows[static_cast<size_t>(item)].row); });
}
