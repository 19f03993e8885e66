// Package crds holds the definitions of Fairlead's kinds, as they are installed.
package crds

import "embed"

// Files are the CustomResourceDefinitions, one in each file.
//
//go:embed *.yaml
var Files embed.FS
