package plan

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestPlannerMemory: the memory of a Planner grows with the number of Services, not with
// the number of decisions that a part is kept of.
func TestPlannerMemory(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const services = 1500
	s := testSnapshot()
	s.Objects.Pools[0].Spec.Addresses = []v1alpha1.AddressRange{"192.1.0.0/16"}
	var p Planner
	before := heap()
	for i := range services {
		addr := netip.AddrFrom4([4]byte{192, 1, byte(i >> 8), byte(i)})
		s.Services = append(s.Services, fixture.Assigned(fmt.Sprintf("s%04d", i), addr.String(), "p"))
		p.Decide(s)
	}
	if perService := (heap() - before) / services; perService > 16<<10 {
		t.Errorf("%d bytes for each Service", perService)
	} else {
		t.Logf("%d bytes for each Service", perService)
	}
	runtime.KeepAlive(&p)
	runtime.KeepAlive(s)
}
