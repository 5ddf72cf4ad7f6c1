// rope_kv: (a, b) -> (a cos - b sin, b cos + a sin) on components d, d + e/2 of queries and keys;
//   queries go to q, keys and values of row i into KV slot base + i
// with gains, heads of queries or keys are first x * gain / sqrt(mean(x^2) + eps), as in rms_norm
// qkv (n,(h+2g)e) f32; angles (n,e) f32: cosines, then sines; q (n,he) and cache in kv.dtype
// gains (e) f32, or null
// one item per row
// moves 4n(h+2g)e bytes in, n(h+2g)e values out
// products and sums in f32, not fused; the result rounds once
// e is even, slots are within the cache (both checked)

inline void rotate_head(const float* x, const float* angles, int32_t half, float* out) {
  const float* cosine = angles;
  const float* sine = angles + half;
  for (int32_t d = 0; d < half; ++d) {
    out[d] = x[d] * cosine[d] - x[d + half] * sine[d];
    out[d + half] = x[d + half] * cosine[d] + x[d] * sine[d];
  }
}

// A head through the norm, if it has one; `normed` (e,) holds the result.
inline const float* norm_head(const float* x, const float* gain, float eps, int32_t e,
                              float* normed) {
  if (gain == nullptr) return x;
  scale_row(x, gain, norm_factor(x, e, eps), e,
            [normed](int32_t at, Vec v, int32_t count) { store_first(normed + at, v, count); });
  return normed;
}

inline void copy_values(const float* x, int32_t count, DType dtype, std::byte* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, x, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  auto* bits = reinterpret_cast<bf16_bits*>(out);
  for (int32_t d = 0; d < count; ++d) bits[d] = to_bf16(x[d]);
}

// Column `slot` of a key block: f32 words or bf16 pairs, 64 bytes apart.
inline void put_key(const float* x, const KvLayer& kv, std::byte* keys, int32_t slot) {
  std::byte* word =
      keys + slot / kKvBlock * panel_bytes(kv.dtype, kv.head_dim) + slot % kKvBlock * 4;
  if (kv.dtype == DType::f32) {
    for (int32_t d = 0; d < kv.head_dim; ++d) std::memcpy(word + d * 64, x + d, 4);
    return;
  }
  for (int32_t d = 0; d < kv.head_dim; d += 2) {
    const bf16_bits pair[2] = {to_bf16(x[d]), to_bf16(x[d + 1])};
    std::memcpy(word + d / 2 * 64, pair, 4);
  }
}

inline void rope_row(const RopeKvArgs& args, const Row& row) {
  const KvLayer& kv = args.kv;
  const int32_t e = kv.head_dim, half = e / 2;
  const int64_t bytes = static_cast<int64_t>(e) * static_cast<int64_t>(size_of(kv.dtype));
  const float* x = args.qkv.row<float>(row.row);
  const float* angles = args.angles.row<float>(row.row);
  float normed[kMaxHeadDim], rotated[kMaxHeadDim];
  for (int32_t head = 0; head < args.heads; ++head, x += e) {
    rotate_head(norm_head(x, args.q_gain, args.eps, e, normed), angles, half, rotated);
    copy_values(rotated, e, kv.dtype, args.q.row<std::byte>(row.row) + head * bytes);
  }
  std::byte* cache = args.rows.segments[static_cast<size_t>(row.segment)].kv;
  std::byte* keys = cache + kv.key_offset;
  for (int32_t g = 0; g < kv.kv_heads; ++g, x += e) {
    rotate_head(norm_head(x, args.k_gain, args.eps, e, normed), angles, half, rotated);
    put_key(rotated, kv, keys + g * (kv_key_bytes(kv) / kv.kv_heads), row.slot);
  }
  std::byte* values = cache + kv.value_offset;
  for (int32_t g = 0; g < kv.kv_heads; ++g, x += e) {
    copy_values(x, e, kv.dtype, values + (static_cast<int64_t>(g) * kv.slots + row.slot) * bytes);
  }
}

void rope_kv(const RopeKvArgs& args, const RowList& rows, Team& team) {
  const int64_t bytes = static_cast<int64_t>(rows.count) * args.qkv.cols * 8;
  team.parallel(rows.count, bytes,
                [&](int item, int) { rope_row(args, rows.rows[static_cast<size_t>(item)]); });
}
