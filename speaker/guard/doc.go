// Package guard keeps packets to announced addresses that nothing on the node
// wants from bouncing between the node and its router.
package guard
