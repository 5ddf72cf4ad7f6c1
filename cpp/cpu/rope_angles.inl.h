// rope_angles: out[i] = cos(p f) s in [0, e/2), sin(p f) s in [e/2, e), p the position of row i
// inv_freq f (e/2) f32; out (n,e) f32
// one row after another on the calling thread
// computes n e/2 sines and cosines; 4ne bytes
// p f is one float32 product, as in Hugging Face

void rope_angles(const RopeAnglesArgs& args, const RowList& rows) {
  for (int32_t i = 0; i < rows.count; ++i) {
    const Row& row = rows.rows[static_cast<size_t>(i)];
    float* out = args.out.row<float>(row.row);
    for (int32_t d = 0; d < args.half; ++d) {
      const float angle = static_cast<float>(row.position) * args.inv_freq[d];
      out[d] = std::cos(angle) * args.scaling;
      out[d + args.half] = std::sin(angle) * args.scaling;
    }
  }
}
