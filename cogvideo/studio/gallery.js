// Tells the server which video's button was pressed, and plays a video while the pointer is over its picture.
element.addEventListener("click", event => {
  const button = event.target.closest("button[data-do]");
  if (button) trigger("chosen", {action: button.dataset.do, name: button.closest("[data-name]").dataset.name});
});
element.addEventListener("mouseover", event => {
  const picture = event.target.closest("img[data-video]");
  if (!picture) return;
  const video = document.createElement("video");
  Object.assign(video, {src: picture.dataset.video, muted: true, loop: true, autoplay: true, playsInline: true});
  video.addEventListener("mouseleave", () => video.replaceWith(picture));
  picture.replaceWith(video);
});
