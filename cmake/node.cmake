# Where node's headers are. cmake-js says so by itself; a plain `cmake -S . -B build-dev` asks node.
if(NOT DEFINED CMAKE_JS_INC)
  execute_process(
    COMMAND node -p "const { dirname, join } = require('node:path'), at = (name) => dirname(require.resolve(name + '/package.json'))
      ; [join(at('node-api-headers'), 'include'), at('node-addon-api')].join(';')"
    WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
    OUTPUT_VARIABLE CMAKE_JS_INC
    OUTPUT_STRIP_TRAILING_WHITESPACE
    COMMAND_ERROR_IS_FATAL ANY)
endif()
