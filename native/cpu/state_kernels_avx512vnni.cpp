#include "simd/conv_row.h"
#include "simd/scan_rows.h"
#include "simd/ssd_rows.h"

namespace crosscurrent::cpu {

const StateKernels kStateKernelsAvx512Vnni = {
    conv_weights, conv_row, scan_load, scan_store, scan_rows, ssd_gates, ssd_rows,
};

}  // namespace crosscurrent::cpu
