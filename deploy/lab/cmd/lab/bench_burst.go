package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// measureCreation creates Services without the controller, and the same number with it,
// in alternating halves, so that other load of the machine affects both. Between the
// halves it restarts the controller.
func (s *scaleBench) measureCreation(ctx context.Context) error {
	var bare, with, used time.Duration
	var events int64
	for part := range 2 {
		without := func() error {
			if err := s.stopController(); err != nil {
				return err
			}
			took, err := s.timeStep(fmt.Sprintf("create %d Services, and patch each immediately, with plain API calls", s.half/2),
				func() error {
					return s.bareBurst(ctx, fmt.Sprintf("bare%d", part))
				})
			if err != nil {
				return err
			}
			bare += took
			_, err = s.startController(ctx)
			return err
		}
		served := func() error {
			before, err := s.countEvents(ctx)
			if err != nil {
				return err
			}
			cpu, _ := s.Controllers[0].Usage()
			took, err := s.timeStep(fmt.Sprintf("create %d Services, and wait for the controller", s.half/2), func() error {
				return s.servedBurst(ctx, fmt.Sprintf("s%d", part))
			})
			if err != nil {
				return err
			}
			after, _ := s.Controllers[0].Usage()
			at, err := s.countEvents(ctx)
			with, used, events = with+took, used+after-cpu, events+at-before
			return err
		}
		order := []func() error{without, served, func() error { return s.measureRestarts(ctx) }}
		if part == 1 {
			order = []func() error{served, without}
		}
		for _, do := range order {
			if err := do(); err != nil {
				return err
			}
		}
	}
	s.table.add(fmt.Sprintf("burst: %d Services are created", s.half), with, bare, 1.3)
	s.addNote("the burst of created Services", events, used)
	return nil
}

// timeStep times a step.
func (s *scaleBench) timeStep(what string, do func() error) (took time.Duration, err error) {
	err = s.Step(what, func() (err error) {
		took, err = s.timeCall(do)
		return err
	})
	return took, err
}

func (s *scaleBench) timeCall(do func() error) (time.Duration, error) {
	began := time.Now()
	err := do()
	return time.Since(began), err
}

// bareBurst creates Services and patches each once it is created, with the concurrency
// of the controller for both.
func (s *scaleBench) bareBurst(ctx context.Context, name string) error {
	created := make(chan *corev1.Service, s.half/2)
	var creating, patching errgroup.Group
	creating.SetLimit(inFlight)
	patching.SetLimit(inFlight)
	patching.Go(func() error {
		for svc := range created {
			patch := s.statusPatch(svc, "bench", "10.80")
			patching.Go(func() error { return s.applyStatus(ctx, svc.Name, patch) })
		}
		return nil
	})
	for i := range s.half / 2 {
		creating.Go(func() error {
			svc, err := s.createService(ctx, newService(fmt.Sprintf("%s-%05d", name, i)))
			if err == nil {
				created <- svc
			}
			return err
		})
	}
	err := creating.Wait()
	close(created)
	if patched := patching.Wait(); err == nil {
		err = patched
	}
	return err
}

// servedBurst creates Services, and waits until all have an address.
func (s *scaleBench) servedBurst(ctx context.Context, name string) error {
	want := s.statuses.poolCount("bench") + s.half/2
	if err := s.createAll(ctx, s.half/2, name); err != nil {
		return err
	}
	return s.statuses.waitCount(ctx, want, "bench")
}

func (s *scaleBench) createAll(ctx context.Context, n int, name string, change ...func(*corev1.Service)) error {
	var group errgroup.Group
	group.SetLimit(inFlight)
	for i := range n {
		group.Go(func() error {
			_, err := s.createService(ctx, newService(fmt.Sprintf("%s-%05d", name, i), change...))
			return err
		})
	}
	return group.Wait()
}

// countEvents returns the number of Events.
func (s *scaleBench) countEvents(ctx context.Context) (int64, error) {
	list, err := s.API.CoreV1().Events("default").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("count Events: %w", err)
	}
	n := int64(len(list.Items))
	if list.RemainingItemCount != nil {
		n += *list.RemainingItemCount
	}
	return n, nil
}

// addNote adds the Events and the CPU time of a burst.
func (s *scaleBench) addNote(what string, events int64, cpu time.Duration) {
	s.notes = append(s.notes, fmt.Sprintf("%s: %d Events written; the controller used %.1f s of CPU time", what, events, cpu.Seconds()))
}

// measureRestarts restarts the controller while Services have addresses.
func (s *scaleBench) measureRestarts(ctx context.Context) error {
	var lead, process, list []time.Duration
	had, err := s.resourceVersions(ctx)
	if err != nil {
		return err
	}
	err = s.Step(fmt.Sprintf("restart the controller with %d Services, %d times", s.half, s.restarts), func() error {
		for range s.restarts {
			if err := s.stopController(); err != nil {
				return err
			}
			for range 2 {
				took, err := s.timeCall(func() error {
					_, err := s.bare.CoreV1().Services("").List(ctx, metav1.ListOptions{})
					return err
				})
				if err != nil {
					return fmt.Errorf("list all Services: %w", err)
				}
				list = append(list, took)
			}
			started, err := s.startController(ctx)
			if err != nil {
				return err
			}
			lead = append(lead, started.done.Sub(started.leads))
			process = append(process, started.done.Sub(started.started))
		}
		return nil
	})
	if err != nil {
		return err
	}
	have, err := s.resourceVersions(ctx)
	if err != nil {
		return err
	}
	writes := 0
	for name, version := range have {
		if had[name] != version {
			writes++
		}
	}
	s.table.addAll(fmt.Sprintf("restart with %d Services: lease acquired → first sync done", s.half), lead, list, 2)
	s.table.addAll("  the same, from the start of the process", process, list, 0)
	s.table.addCount(fmt.Sprintf("  Services written by %d restarts", s.restarts), writes, 0)
	return nil
}

func (s *scaleBench) resourceVersions(ctx context.Context) (map[string]string, error) {
	list, err := s.API.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list all Services: %w", err)
	}
	versions := make(map[string]string, len(list.Items))
	for _, svc := range list.Items {
		versions[svc.Name] = svc.ResourceVersion
	}
	return versions, nil
}

// measurePending creates pools that pending Services request: one with plain API calls
// instead of the controller, and one with the controller.
func (s *scaleBench) measurePending(ctx context.Context) error {
	if err := s.stopController(); err != nil {
		return err
	}
	err := s.Step(fmt.Sprintf("create 2 × %d Services that request a missing pool", s.pendingServices()), func() error {
		for _, pool := range []string{"late0", "late1"} {
			if err := s.createAll(ctx, s.pendingServices(), pool, fromPool(pool)); err != nil {
				return err
			}
		}
		if _, err := s.startController(ctx); err != nil {
			return err
		}
		return s.statuses.waitCount(ctx, 2*s.pendingServices(), noPool)
	})
	if err != nil {
		return err
	}
	if err := s.stopController(); err != nil {
		return err
	}
	var bare, with time.Duration
	err = s.Step(fmt.Sprintf("patch %d of them with plain API calls", s.pendingServices()), func() (err error) {
		list, err := s.API.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list all Services: %w", err)
		}
		if err := s.makePool(ctx, "late0", "10.81.0.0/16"); err != nil {
			return err
		}
		s.assigned = 0
		bare, err = s.timeCall(func() error { return s.patchAll(ctx, list.Items, "late0", "10.81") })
		return err
	})
	if err != nil {
		return err
	}
	if _, err := s.startController(ctx); err != nil {
		return err
	}
	before, err := s.countEvents(ctx)
	if err != nil {
		return err
	}
	cpu, _ := s.Controllers[0].Usage()
	err = s.Step(fmt.Sprintf("create the pool of the other %d, and wait for the controller", s.pendingServices()), func() (err error) {
		with, err = s.timeCall(func() error {
			if err := s.makePool(ctx, "late1", "10.82.0.0/16"); err != nil {
				return err
			}
			return s.statuses.waitCount(ctx, s.pendingServices(), "late1")
		})
		return err
	})
	if err != nil {
		return err
	}
	used, _ := s.Controllers[0].Usage()
	s.table.add(fmt.Sprintf("burst: the pool of %d pending Services is created", s.pendingServices()), with, bare, 1.3)
	at, err := s.countEvents(ctx)
	s.addNote("the burst of pending Services", at-before, used-cpu)
	return err
}

func (s *scaleBench) patchAll(ctx context.Context, services []corev1.Service, pool, prefix string) error {
	var group errgroup.Group
	group.SetLimit(inFlight)
	for i := range services {
		if svc := &services[i]; svc.Annotations["fairlead.io/address-pool"] == pool {
			patch := s.statusPatch(svc, pool, prefix)
			group.Go(func() error { return s.applyStatus(ctx, svc.Name, patch) })
		}
	}
	return group.Wait()
}
