# specrt_find_nvcc(OBSTACLE): finds an nvcc that works here, for enable_language(CUDA), or sets
# OBSTACLE to what stands in the way.
set(SPECRT_OLDEST_NVCC 12.4)

function(specrt_find_nvcc OBSTACLE)
  if(CMAKE_VERSION VERSION_LESS 3.26)
    set(${OBSTACLE} "nvcc needs CMake 3.26 or newer (pip install cmake), this is ${CMAKE_VERSION}"
        PARENT_SCOPE)
    return()
  endif()
  # CUDACXX and the others are what CMake and the toolkit's users set; the last is its usual place.
  find_program(SPECRT_NVCC NAMES $ENV{CUDACXX} ${CMAKE_CUDA_COMPILER} nvcc
               HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT SPECRT_NVCC)
    set(${OBSTACLE} "nvcc is not on the PATH; CUDACXX may name it" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${SPECRT_NVCC} --version OUTPUT_VARIABLE words ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" release "${words}")
  if(NOT release OR CMAKE_MATCH_1 VERSION_LESS SPECRT_OLDEST_NVCC)
    set(${OBSTACLE}
        "nvcc ${SPECRT_OLDEST_NVCC} or newer is needed, ${SPECRT_NVCC} is ${CMAKE_MATCH_1}"
        PARENT_SCOPE)
    return()
  endif()
  set(ENV{CUDACXX} "${SPECRT_NVCC}")
  include(CheckLanguage)
  check_language(CUDA)  # compiles a program, unless CMAKE_CUDA_COMPILER was given
  if(NOT CMAKE_CUDA_COMPILER)
    set(${OBSTACLE} "${SPECRT_NVCC} compiles no program; CMake's log says why" PARENT_SCOPE)
  endif()
endfunction()
