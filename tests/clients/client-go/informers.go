package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic/dynamicinformer"
	clientinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

func informers(ctx context.Context, c *cluster) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := c.make(ctx, "informed", 2); err != nil {
		return err
	}
	factory := clientinformers.NewSharedInformerFactoryWithOptions(c.typed, 2*time.Second, clientinformers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps()
	if err := informer.Informer().AddIndexers(cache.Indexers{"parity": func(object any) ([]string, error) {
		return []string{object.(*corev1.ConfigMap).Labels["parity"]}, nil
	}}); err != nil {
		return err
	}
	var added, changed, resynced, deleted atomic.Int32
	registration, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { added.Add(1) },
		UpdateFunc: func(old, new any) {
			if old.(*corev1.ConfigMap).ResourceVersion == new.(*corev1.ConfigMap).ResourceVersion {
				resynced.Add(1)
			} else {
				changed.Add(1)
			}
		},
		DeleteFunc: func(any) { deleted.Add(1) },
	})
	if err != nil {
		return err
	}
	others := []cache.SharedIndexInformer{
		factory.Core().V1().Pods().Informer(), factory.Core().V1().Services().Informer(), factory.Core().V1().Secrets().Informer(),
		factory.Core().V1().Namespaces().Informer(), factory.Core().V1().Nodes().Informer(), factory.Core().V1().Events().Informer(),
		factory.Apps().V1().Deployments().Informer(), factory.Apps().V1().ReplicaSets().Informer(), factory.Batch().V1().Jobs().Informer(),
		factory.Discovery().V1().EndpointSlices().Informer(), factory.Coordination().V1().Leases().Informer(),
		factory.Networking().V1().Ingresses().Informer(), factory.Networking().V1().IngressClasses().Informer(),
		factory.Policy().V1().PodDisruptionBudgets().Informer(), factory.Rbac().V1().Roles().Informer(),
		factory.Storage().V1().StorageClasses().Informer(), factory.Scheduling().V1().PriorityClasses().Informer(),
	}
	factory.Start(ctx.Done())
	syncing, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for kind, synced := range factory.WaitForCacheSync(syncing.Done()) {
		if !synced {
			return fmt.Errorf("the informer of %v is not in sync", kind)
		}
	}
	_ = others
	if !cache.WaitForCacheSync(syncing.Done(), registration.HasSynced) {
		return fmt.Errorf("the handler is not in sync")
	}
	one, err := informer.Lister().ConfigMaps(namespace).Get("informed-1")
	if err != nil {
		return err
	}
	update := one.DeepCopy()
	update.Data["a"] = "2"
	if _, err := c.typed.CoreV1().ConfigMaps(namespace).Update(ctx, update, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := eventually(ctx, func() error {
		if changed.Load() < 1 || resynced.Load() < 2 {
			return fmt.Errorf("%d changes, %d resyncs", changed.Load(), resynced.Load())
		}
		return nil
	}); err != nil {
		return err
	}
	odd, err := informer.Informer().GetIndexer().ByIndex("parity", "odd")
	if err := all(err, equal("objects of the index", len(odd), 1)); err != nil {
		return err
	}
	if err := c.remove(ctx, "informed"); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		left, err := informer.Lister().List(labels.SelectorFromSet(labels.Set{"set": "informed"}))
		return all(err, equal("objects left", len(left), 0), equal("deletions", deleted.Load(), 2))
	})
}

func dynamicInformers(ctx context.Context, c *cluster) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.dynamic, 0, namespace, nil)
	informer := factory.ForResource(virtualServices)
	_ = informer.Informer()
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("the informer of %v is not in sync", kind)
		}
	}
	services := c.dynamic.Resource(virtualServices).Namespace(namespace)
	if _, err := services.Create(ctx, virtualService("informed"), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := eventually(ctx, func() error {
		_, err := informer.Lister().ByNamespace(namespace).Get("informed")
		return err
	}); err != nil {
		return err
	}
	return services.Delete(ctx, "informed", metav1.DeleteOptions{})
}

func leaderElection(ctx context.Context, c *cluster) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	leads := make(chan string, 4)
	var wait sync.WaitGroup
	defer wait.Wait()
	elect := func(id string) context.CancelFunc {
		ctx, resign := context.WithCancel(ctx)
		lock := &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Name: "leader", Namespace: namespace}, Client: c.typed.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: id},
		}
		wait.Go(func() {
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 300 * time.Millisecond,
				ReleaseOnCancel: true,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(ctx context.Context) { leads <- id; <-ctx.Done() }, OnStoppedLeading: func() {}},
			})
		})
		return resign
	}
	resign := elect("first")
	if err := equal("the leader", <-leads, "first"); err != nil {
		return err
	}
	elect("second")
	select {
	case second := <-leads:
		return fmt.Errorf("%s leads beside the first", second)
	case <-time.After(4 * time.Second):
	}
	resign()
	select {
	case second := <-leads:
		lease, err := c.typed.CoordinationV1().Leases(namespace).Get(ctx, "leader", metav1.GetOptions{})
		if err != nil {
			return err
		}
		err = all(equal("the second leader", second, "second"), equal("the holder", *lease.Spec.HolderIdentity, "second"))
		stop()
		return err
	case <-time.After(10 * time.Second):
		return fmt.Errorf("nobody follows the leader that resigned")
	}
}
