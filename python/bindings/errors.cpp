// specrt::Error becomes specrt.Error, or ValueError when the caller's argument is at fault.
// std::bad_alloc, from small allocations on the host, becomes MemoryError.
#include <new>

#include "base/error.h"
#include "bindings.h"

namespace nb = nanobind;

namespace specrt::bindings {

void init_errors(nb::module_& module) {
  static PyObject* error_type = nullptr;
  error_type = nb::exception<Error>(module, "Error", PyExc_RuntimeError).release().ptr();
  nb::register_exception_translator([](const std::exception_ptr& exception, void*) {
    try {
      std::rethrow_exception(exception);
    } catch (const Error& error) {
      PyErr_SetString(error.kind() == ErrorKind::argument ? PyExc_ValueError : error_type,
                      error.what());
    } catch (const std::bad_alloc&) {
      PyErr_SetString(PyExc_MemoryError,
                      "specrt has no memory left for this call; free memory, or use a smaller one");
    }
  });
}

}  // namespace specrt::bindings
