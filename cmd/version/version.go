// Package version says which build of Fairlead this is.
package version

import (
	"cmp"
	"runtime/debug"
)

// version is set by the linker.
var version string

// String is the version that the build was given, or what the Go toolchain
// recorded of the module, or "dev".
func String() string {
	recorded := ""
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		recorded = info.Main.Version
	}
	return cmp.Or(version, recorded, "dev")
}
