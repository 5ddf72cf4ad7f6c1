// embed: out[i,:] = table[token of row i,:]
// table (v,d) f32 or bf16, row major or panels16; out (n,d) f32
// one row after another on the calling thread; a row of panels16 is one word of every line
// moves nd table values and 4nd bytes; memory bound
// exact: a bf16 value widens to f32
// tokens are in [0, v) (checked when the op runs)

inline void embed_row_major(const Weight& table, int32_t token, float* out) {
  const int64_t first = static_cast<int64_t>(token) * table.cols;
  if (table.dtype == DType::f32) {
    std::memcpy(out, table.data + first * 4, static_cast<size_t>(table.cols) * sizeof(float));
    return;
  }
  const auto* row = reinterpret_cast<const bf16_bits*>(table.data) + first;
  for (int32_t k = 0; k < table.cols; ++k) out[k] = to_float(row[k]);
}

inline void embed_panels(const Weight& table, int32_t token, float* out) {
  const std::byte* line = table.data + token / kPanelRows * panel_bytes(table.dtype, table.cols) +
                          token % kPanelRows * 4;
  if (table.dtype == DType::f32) {
    for (int32_t k = 0; k < table.cols; ++k)
      out[k] = std::bit_cast<float>(load_word(line + k * 64));
    return;
  }
  for (int32_t k = 0; k < table.cols; ++k) {
    const uint32_t pair = load_word(line + k / 2 * 64);
    out[k] = std::bit_cast<float>(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
  }
}

void embed(const EmbedArgs& args, const RowList& rows) {
  for (int32_t i = 0; i < rows.count; ++i) {
    const Row& row = rows.rows[static_cast<size_t>(i)];
    float* out = args.out.row<float>(row.row);
    if (args.table.layout == Layout::row_major) {
      embed_row_major(args.table, row.token, out);
    } else {
      embed_panels(args.table, row.token, out);
    }
  }
}
