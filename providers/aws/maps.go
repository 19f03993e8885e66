package aws

import (
	"maps"
	"slices"
)

// put sets a key of a map that may be nil.
func put[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	if m == nil {
		m = map[K]V{}
	}
	m[k] = v
	return m
}

// mergeMaps returns a new map with all entries; the last map wins.
func mergeMaps(all ...map[string]string) map[string]string {
	m := map[string]string{}
	for _, more := range all {
		maps.Copy(m, more)
	}
	return m
}

// intersect returns what both slices have.
func intersect[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return !slices.Contains(b, x) })
}

// subtract returns what the first slice has and the second lacks.
func subtract[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return slices.Contains(b, x) })
}
