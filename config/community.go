package config

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// wellKnown has the well-known communities (IANA, "BGP Well-known Communities").
var wellKnown = map[string]string{
	"graceful-shutdown":   GracefulShutdown,
	"blackhole":           "65535:666",
	"no-export":           "65535:65281",
	"no-advertise":        "65535:65282",
	"no-export-subconfed": "65535:65283",
	"no-peer":             "65535:65284",
}

// GracefulShutdown asks routers to prefer any other path (RFC 8326).
const GracefulShutdown = "65535:0"

// parseCommunities returns the values of the communities by name.
func parseCommunities(objects []*v1alpha1.Community, report problemReporter) map[string]string {
	names := maps.Clone(wellKnown)
	owner := map[string]string{}
	for name := range names {
		owner[name] = "the well-known communities"
	}
	for _, o := range objects {
		reportField := report.forObject("Community", o.Name)
		for i, c := range o.Spec.Communities {
			field := fmt.Sprintf("spec.communities[%d]", i)
			value, err := parseCommunity(c.Value)
			switch before, taken := owner[c.Name]; {
			case err != nil:
				reportField(field+".value", v1alpha1.InvalidCommunity, "%v", err)
			case taken:
				reportField(field+".name", v1alpha1.DuplicateCommunity, "name %q is already defined by %s, which takes precedence", c.Name, before)
			default:
				names[c.Name], owner[c.Name] = value, fmt.Sprintf("Community %q", o.Name)
			}
		}
	}
	return names
}

// parseCommunity parses "64512:100" (RFC 1997) and "large:64512:1:2" (RFC 8092), and
// returns the notation of GoBGP and routers, without the "large:".
func parseCommunity(text string) (string, error) {
	digits, large := strings.CutPrefix(text, "large:")
	parts := strings.Split(digits, ":")
	bits, want := 16, 2
	if large {
		bits, want = 32, 3
	}
	if len(parts) != want {
		return "", fmt.Errorf("invalid community %q: not a value, and not defined by any Community", text)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, bits)
		if err != nil {
			return "", fmt.Errorf("invalid community %q: %q must be a number below %d", text, p, uint64(1)<<bits)
		}
		parts[i] = strconv.FormatUint(n, 10)
	}
	return strings.Join(parts, ":"), nil
}
