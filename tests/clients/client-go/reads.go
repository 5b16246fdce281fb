package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/pager"

	"k8s.io/apimachinery/pkg/runtime"
)

// make creates ConfigMaps NAME-0 and following with a label.
func (c *cluster) make(ctx context.Context, name string, count int) error {
	for index := range count {
		made := configMap(fmt.Sprintf("%s-%d", name, index), map[string]string{"set": name, "parity": []string{"even", "odd"}[index%2]})
		if _, err := c.typed.CoreV1().ConfigMaps(namespace).Create(ctx, made, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) remove(ctx context.Context, name string) error {
	return c.typed.CoreV1().ConfigMaps(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "set=" + name})
}

func pagination(ctx context.Context, c *cluster) error {
	if err := c.make(ctx, "paged", 7); err != nil {
		return err
	}
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	options := metav1.ListOptions{LabelSelector: "set=paged", Limit: 3}
	first, err := maps.List(ctx, options)
	if err != nil {
		return err
	}
	if len(first.Items) != 3 || first.Continue == "" {
		return fmt.Errorf("the first page has %d items, continue %q", len(first.Items), first.Continue)
	}
	// A page is of the same revision as the first one.
	if _, err := maps.Create(ctx, configMap("paged-9", map[string]string{"set": "paged"}), metav1.CreateOptions{}); err != nil {
		return err
	}
	options.Continue = first.Continue
	second, err := maps.List(ctx, options)
	if err != nil {
		return err
	}
	options.Continue = second.Continue
	third, err := maps.List(ctx, options)
	if err != nil {
		return err
	}
	count := 0
	each := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return maps.List(ctx, options)
	})
	each.PageSize = 2
	err = each.EachListItem(ctx, metav1.ListOptions{LabelSelector: "set=paged"}, func(runtime.Object) error { count++; return nil })
	_, invalid := maps.List(ctx, metav1.ListOptions{Limit: 1, Continue: "nothing"})
	return all(err, equal("the second page", len(second.Items), 3), equal("the third page", len(third.Items), 1),
		equal("its revision", third.ResourceVersion, first.ResourceVersion), equal("the end", third.Continue, ""),
		equal("items of a pager", count, 8), is("a made-up continuation", invalid, apierrors.IsBadRequest), c.remove(ctx, "paged"))
}

func selectors(ctx context.Context, c *cluster) error {
	if err := c.make(ctx, "selected", 4); err != nil {
		return err
	}
	for selector, expected := range map[string]int{
		"set=selected": 4, "set=selected,parity=even": 2, "set in (selected,other),parity!=even": 2,
		"set=selected,!absent": 4, "set=selected,absent": 0, "parity notin (odd),set": 2,
	} {
		list, err := c.typed.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err := all(err, equal(selector, len(list.Items), expected)); err != nil {
			return err
		}
	}
	for selector, expected := range map[string]int{
		"metadata.name=clock": 1, "metadata.name!=clock,status.phase=Running": 0, "spec.nodeName=nowhere": 0,
		fields.AndSelectors(fields.OneTermEqualSelector("status.phase", "Running"), fields.OneTermEqualSelector("metadata.namespace", namespace)).String(): 1,
	} {
		list, err := c.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: selector, LabelSelector: "app=clock"})
		if err := all(err, equal(selector, len(list.Items), expected)); err != nil {
			return err
		}
	}
	_, unknown := c.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.nothing=1"})
	return all(is("an unknown field", unknown, apierrors.IsBadRequest), c.remove(ctx, "selected"))
}

func metadataOnly(ctx context.Context, c *cluster) error {
	client, err := metadata.NewForConfig(c.config)
	if err != nil {
		return err
	}
	list, err := client.Resource(pods).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=clock"})
	if err != nil {
		return err
	}
	one, err := client.Resource(pods).Namespace(namespace).Get(ctx, "clock", metav1.GetOptions{})
	if err != nil {
		return err
	}
	watched, err := client.Resource(pods).Namespace(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=clock"})
	if err != nil {
		return err
	}
	defer watched.Stop()
	event := <-watched.ResultChan()
	partial, _ := event.Object.(*metav1.PartialObjectMetadata)
	if partial == nil {
		return fmt.Errorf("the watch has a %T", event.Object)
	}
	return all(equal("pods", len(list.Items), 1), equal("the name", one.Name, "clock"),
		equal("the watched name", partial.Name, "clock"))
}

// next is the next event of a watch that is not a bookmark.
func next(ctx context.Context, watched watch.Interface) (watch.Event, error) {
	for {
		select {
		case event, open := <-watched.ResultChan():
			if !open {
				return event, fmt.Errorf("the watch ended")
			}
			if event.Type != watch.Bookmark {
				return event, nil
			}
		case <-ctx.Done():
			return watch.Event{}, fmt.Errorf("no event came: %w", ctx.Err())
		}
	}
}

func watches(ctx context.Context, c *cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if err := c.make(ctx, "watched", 2); err != nil {
		return err
	}
	// The watch begins before the objects were made.
	watched, err := maps.Watch(ctx, metav1.ListOptions{
		LabelSelector: "set=watched", ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	defer watched.Stop()
	for index := range 2 {
		event, err := next(ctx, watched)
		if err := all(err, equal("the event", event.Type, watch.Added), equal("its object", event.Object.(*corev1.ConfigMap).Name, fmt.Sprintf("watched-%d", index))); err != nil {
			return err
		}
	}
	// An object that leaves the selection is deleted for the watch, one that enters it is added.
	changed, err := maps.Get(ctx, "watched-0", metav1.GetOptions{})
	if err != nil {
		return err
	}
	changed.Labels["set"] = "elsewhere"
	if changed, err = maps.Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return err
	}
	left, err := next(ctx, watched)
	if err := all(err, equal("the event of one that left", left.Type, watch.Deleted)); err != nil {
		return err
	}
	changed.Labels["set"] = "watched"
	if _, err = maps.Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return err
	}
	entered, err := next(ctx, watched)
	if err := all(err, equal("the event of one that entered", entered.Type, watch.Added)); err != nil {
		return err
	}
	if err := c.remove(ctx, "watched"); err != nil {
		return err
	}
	removed, err := next(ctx, watched)
	if err := all(err, equal("the event of one that was deleted", removed.Type, watch.Deleted)); err != nil {
		return err
	}
	return c.bookmark(ctx)
}

// bookmark waits for a bookmark that is newer than a change outside of the watch's selection.
func (c *cluster) bookmark(ctx context.Context) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	ending := int64(2)
	watched, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "set=nothing", AllowWatchBookmarks: true, TimeoutSeconds: &ending})
	if err != nil {
		return err
	}
	defer watched.Stop()
	for event := range watched.ResultChan() {
		if event.Type == watch.Bookmark {
			return nil
		}
	}
	return fmt.Errorf("a watch of 2 s ended without a bookmark")
}

func expiredWatch(ctx context.Context, c *cluster) error {
	watched, err := c.typed.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: "1"})
	if err == nil {
		defer watched.Stop()
		event, ended := next(ctx, watched)
		if ended != nil {
			return ended
		}
		if event.Type != watch.Error {
			return fmt.Errorf("the event is %s", event.Type)
		}
		err = apierrors.FromObject(event.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		return fmt.Errorf("the revision is not said to have expired: %v", err)
	}
	return nil
}

func streamedList(ctx context.Context, c *cluster) error {
	if err := c.make(ctx, "streamed", 3); err != nil {
		return err
	}
	initial := true
	watched, err := c.typed.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{
		LabelSelector: "set=streamed", SendInitialEvents: &initial, AllowWatchBookmarks: true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		return err
	}
	defer watched.Stop()
	added := 0
	for {
		select {
		case event := <-watched.ResultChan():
			switch event.Type {
			case watch.Added:
				added++
			case watch.Bookmark:
				marked := event.Object.(*corev1.ConfigMap).Annotations[metav1.InitialEventsAnnotationKey]
				return all(equal("objects", added, 3), equal("the mark", marked, "true"), c.remove(ctx, "streamed"))
			default:
				return fmt.Errorf("unexpected event %s %v", event.Type, event.Object)
			}
		case <-time.After(20 * time.Second):
			return fmt.Errorf("no bookmark ends the %d initial events", added)
		}
	}
}
