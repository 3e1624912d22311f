"""The studio: a page in the browser, on Gradio, on which videos are made, compared and looked at."""
