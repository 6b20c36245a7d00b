# Installs what was built, moves it, and builds native/examples against it as another engine does.
#
#   cmake -DWAY=cmake|pkg-config -DBUILD=… -DEXAMPLES=… -DLIBDIR=lib -DCC=cc -P installed_tree.cmake
#
# It knows nothing of the build but the prefix.
set(at ${BUILD}/installed-${WAY})
file(REMOVE_RECURSE ${at})

# Runs a command; `output` gets what it printed.
function(run output)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN}\n${text}\nended with ${result}")
  endif()
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

function(require_kept_rows text)
  if(NOT text MATCHES "^[0-9]+ of 900 rows kept")
    message(FATAL_ERROR "the example printed: ${text}")
  endif()
endfunction()

if(WAY STREQUAL pkg-config)
  find_program(PKG_CONFIG pkg-config)
  if(NOT PKG_CONFIG)
    message("skipped: no pkg-config: apt-get install pkg-config")
    return()
  endif()
endif()

run(ignored ${CMAKE_COMMAND} --install ${BUILD} --prefix ${at}/first --strip)
file(RENAME ${at}/first ${at}/moved)
set(prefix ${at}/moved)
foreach(file include/uniprefill/operators.h include/uniprefill/runner.h share/uniprefill/vectors/selection.json
        share/uniprefill/vectors/attention.json ${LIBDIR}/libuniprefill.so)
  if(NOT EXISTS ${prefix}/${file})
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()

# No file of the tree may name where it was built.
file(GLOB_RECURSE text_files ${prefix}/*.h ${prefix}/*.cmake ${prefix}/*.pc ${prefix}/*.json)
foreach(file ${text_files})
  file(READ ${file} text)
  string(FIND "${text}" "${BUILD}" found)
  if(NOT found EQUAL -1)
    message(FATAL_ERROR "${file} names ${BUILD}")
  endif()
endforeach()

if(WAY STREQUAL cmake)
  set(configure ${CMAKE_COMMAND} -S ${EXAMPLES} -B ${at}/build -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_C_COMPILER=${CC})
  run(ignored ${configure})
  run(ignored ${CMAKE_COMMAND} --build ${at}/build)
  run(text ${at}/build/drop_layer)
  require_kept_rows("${text}")
  # A library that is too old is named with its version, and with the one that was asked for.
  execute_process(COMMAND ${configure} -DUNIPREFILL_VERSION=99.1 RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(result EQUAL 0 OR NOT text MATCHES "version \"99.1\"" OR NOT text MATCHES "uniprefill-config.cmake, version: [0-9]")
    message(FATAL_ERROR "asked for version 99.1, CMake said (${result}): ${text}")
  endif()
else()
  set(ENV{PKG_CONFIG_PATH} ${prefix}/${LIBDIR}/pkgconfig)
  run(flags ${PKG_CONFIG} --cflags --libs "uniprefill >= 0.1")
  separate_arguments(flags UNIX_COMMAND "${flags}")
  run(ignored ${CC} -std=c99 -Wall -Wextra -Werror ${EXAMPLES}/drop_layer.c ${flags} -o ${at}/drop_layer)
  set(ENV{LD_LIBRARY_PATH} ${prefix}/${LIBDIR})
  run(text ${at}/drop_layer)
  require_kept_rows("${text}")
endif()
file(REMOVE_RECURSE ${at})
