package config

import (
	"cmp"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// BFDProfile has the parameters of BFD sessions.
type BFDProfile struct {
	Transmit, Receive time.Duration
	Multiplier        uint8
	MinTTL            uint8
	Passive           bool
}

// nodeSession is the profile of the sessions between nodes that L2Advertisements without a
// valid profile need.
var nodeSession = BFDProfile{Transmit: 50 * time.Millisecond, Receive: 50 * time.Millisecond, Multiplier: 3}

// parseBFDProfile returns the BFDProfile that spec.bfdProfile of an object names. If it does
// not exist or is invalid, it reports that with the consequence, and returns nil.
func (refs objectReferences) parseBFDProfile(name, consequence string, report fieldReporter) *BFDProfile {
	object := refs.profiles[name]
	if object == nil {
		report("spec.bfdProfile", v1alpha1.UnknownBFDProfile, "BFDProfile %q does not exist: %s", name, consequence)
		return nil
	}
	// The schema has the same defaults and bounds. They are repeated for profiles that were
	// not read from an API server, or that were stored while it had another schema.
	spec, problem := object.Spec, ""
	bounded := func(field string, n, initial, low, high int32) int32 {
		if n = cmp.Or(n, initial); problem == "" && (n < low || n > high) {
			problem = fmt.Sprintf("spec.%s must be from %d to %d, not %d", field, low, high, n)
		}
		return n
	}
	p := &BFDProfile{
		Transmit:   time.Duration(bounded("transmitInterval", spec.TransmitInterval, 300, 10, 60000)) * time.Millisecond,
		Receive:    time.Duration(bounded("receiveInterval", spec.ReceiveInterval, 300, 10, 60000)) * time.Millisecond,
		Multiplier: uint8(bounded("detectMultiplier", spec.DetectMultiplier, 3, 2, 255)),
		MinTTL:     uint8(bounded("minimumTtl", spec.MinimumTTL, 254, 1, 254)),
		Passive:    spec.PassiveMode,
	}
	if problem != "" {
		report("spec.bfdProfile", v1alpha1.InvalidBFDProfile, "BFDProfile %q is invalid: %s: %s", name, problem, consequence)
		return nil
	}
	return p
}
